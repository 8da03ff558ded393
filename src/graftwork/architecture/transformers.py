"""What versions of transformers call otherwise in ``config.json``, or leave out, although it is the same model.

A configuration that version 5 wrote has the parameters of rotary embeddings in one place (``rope_parameters``), where version 4 had
them in several, and says what version 4 left to be derived. Every version writes the fields that it knows, with few exceptions, so that a
field which only one of two configurations has is one that the other's version did not know, or no longer does.
"""

from collections.abc import Mapping
from typing import Any

VERSION = "transformers_version"

ROPE = "rope_parameters"
"""Where version 5 keeps what rotary embeddings are made with."""

_OLD_ROPE = frozenset(
    {"rope_theta", "rope_scaling", "rope_local_base_freq", "rotary_emb_base", "rotary_pct", "partial_rotary_factor"}
)

_STRETCHED = frozenset({"llama3", "yarn", "longrope"})
"""Kinds of rotary embeddings that count from the length that the model was trained with."""

_PLAIN = ("default", "axial")
"""Kinds that a model has by itself; version 4 calls both the default."""

_ALWAYS_SAID = frozenset({"rope_scaling", ROPE, "quantization_config", "compression_config"})
"""Fields that no version leaves out where they count."""

_LEFT_OUT = {"tie_word_embeddings": True}
"""Values that version 4 did not write for any model."""


def alike(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return two configurations, or parts of such, where what one of them spells in another way is spelled as in version 5."""
    a, b = dict(a), dict(b)
    if (ROPE in a) != (ROPE in b):
        a, b = _with_rope(a), _with_rope(b)
    for one, other in ((a, b), (b, a)):
        if one.get("use_sliding_window") is False:
            one["sliding_window"] = None
        if other.get("head_dim") and not one.get("head_dim"):
            one["head_dim"] = _head_dim(one)
        if set(other.get("layer_types") or ()) == {"full_attention"} and not one.get("sliding_window"):
            one.setdefault("layer_types", other["layer_types"])
        for name, value in _LEFT_OUT.items():
            if other.get(name) == value:
                one.setdefault(name, value)
    return a, b


def leaves_out(field: str, value: Any) -> bool:
    """Return whether a version may not know a field that has this value in a configuration of another version."""
    path = field.split(".")
    if path[-1] == ROPE and isinstance(value, Mapping):
        return value.get("rope_type", "default") in _PLAIN and not _kinds(value)
    return not _ALWAYS_SAID.intersection(path)


def _head_dim(config: Mapping[str, Any]) -> int | None:
    width, heads = config.get("hidden_size"), config.get("num_attention_heads")
    return width // heads if isinstance(width, int) and isinstance(heads, int) and heads > 0 else None


def _with_rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration with what it says of rotary embeddings in one place, if it says anything."""
    given = config.get(ROPE) or config.get("rope_scaling") or {}
    theta = config.get("rope_theta", config.get("rotary_emb_base"))
    found = {name: value for name, value in config.items() if name not in _OLD_ROPE}
    if not isinstance(given, Mapping) or not (given or theta):
        return found
    kinds = _kinds(given)
    if not kinds and config.get("rope_local_base_freq"):
        kinds = {"full_attention": given, "sliding_attention": {"rope_theta": config["rope_local_base_freq"]}}
    found[ROPE] = {kind: _rope(each, theta, config) for kind, each in kinds.items()} or _rope(given, theta, config)
    return found


def _kinds(given: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the parameters by kind of layer, where there are such."""
    return {kind: each for kind, each in given.items() if isinstance(each, Mapping)}


def _rope(given: Mapping[str, Any], theta: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of one kind of layer with all that is said elsewhere in the configuration."""
    kind = given.get("rope_type", given.get("type", "default"))
    whole = {
        "rope_theta": theta,
        "partial_rotary_factor": config.get("partial_rotary_factor", config.get("rotary_pct")),
        "original_max_position_embeddings": config.get(
            "original_max_position_embeddings", config.get("max_position_embeddings")
        )
        if kind in _STRETCHED
        else None,
        **given,
        "rope_type": "default" if kind in _PLAIN else kind,
    }
    if whole["partial_rotary_factor"] == 1:
        del whole["partial_rotary_factor"]
    return {name: value for name, value in whole.items() if name != "type" and value is not None}
