"""LoRA adapters as PEFT saves them, applied to a base model while it is read.

::

    adapter_config.json         {"peft_type": "LORA", "r": 16, "lora_alpha": 32, "target_modules": [...], ...}
    adapter_model.safetensors   base_model.model.MODULE.lora_A.weight   (r, in)
                                base_model.model.MODULE.lora_B.weight   (out, r)
                                base_model.model.MODULE.weight          of a module that was trained whole

    W' = W + s B A                                 s = lora_alpha / r, or lora_alpha / sqrt(r) with use_rslora
    W' = m (W + s B A) / ‖W + s B A‖               DoRA: m and the norms by output

Whatever part of a tensor is wanted, each element is computed in float64 in one order and rounded once, to the base's dtype. PEFT's
own merge rounds to that dtype several times. What the adapter holds must fit the base to the last tensor; settings that are not
known here are refused, since they may change what the adapter computes. The loops are imported when a tensor is read: opening any other
file comes past here too.
"""

import math
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from graftwork.errors import MismatchError, StoreError, suggest
from graftwork.lazy import NDArray, np
from graftwork.stores.base import RAW_DTYPES, Format, Raw, Reader
from graftwork.stores.files import read_json, read_small
from graftwork.stores.huggingface import inside
from graftwork.stores.model_card import card_of
from graftwork.stores.safetensors import SafetensorsReader
from graftwork.tensor import FLOATS, TensorSpec

CONFIG, WEIGHTS, PREFIX = "adapter_config.json", "adapter_model.safetensors", "base_model.model."

CHUNK = 1 << 16
"""Elements that are computed at a time."""

KEPT = 8
"""Tensors whose factors are kept in memory: those that threads are at work on."""

WITHOUT_EFFECT = frozenset(
    {
        *("auto_mapping", "base_model_name_or_path", "bias", "corda_config", "ensure_weight_tying", "eva_config"),
        *("exclude_modules", "inference_mode", "layers_pattern", "layers_to_transform", "loftq_config", "lora_dropout"),
        *("lora_ga_config", "megatron_config", "megatron_core", "modules_to_save", "peft_version", "qalora_group_size"),
        *("revision", "runtime_config", "target_modules", "task_type", "velora_config"),
    }
)
"""Settings that say how an adapter was trained or where it belongs; what it computes is in its tensors."""

UNDERSTOOD = frozenset(
    {
        *("alpha_pattern", "fan_in_fan_out", "init_lora_weights", "lora_alpha", "lora_bias", "peft_type", "r"),
        *("rank_pattern", "use_dora", "use_rslora"),
    }
)

PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Ways to begin training that leave the base as it is; others (PiSSA, OLoRA …) change the base, so their adapters fit a changed one."""

CONV1D_MODELS = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp")
"""Models whose layers called as in `CONV1D_LAYERS` keep their weights transposed, (in, out); PEFT looks at the layer's class."""

CONV1D_LAYERS = ("c_attn", "c_proj", "c_fc", "q_attn")

_FACTOR = re.compile(
    r"(?P<module>.+)\.(?:(?P<slot>lora_A|lora_B)(?:\.\w+)?\.(?P<leaf>weight|bias)"
    r"|(?P<bare>lora_embedding_A|lora_embedding_B|lora_magnitude_vector)(?:\.\w+){0,2})"
)
_WRAPPING = re.compile(r"\.(?:modules_to_save(?:\.default)?|base_layer)(?=\.)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What an adapter's configuration says about what it computes.

    Attributes:
        rank: r.
        alpha: lora_alpha.
        ranks: By regular expression over modules' names, where it is another.
        alphas: Likewise.
        rank_stabilised: Whether s has the root of r.
        transposed: Whether layers keep their weights as (in, out).
        dora: Whether there are magnitudes.
    """

    rank: int
    alpha: float
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    rank_stabilised: bool
    transposed: bool
    dora: bool

    def rank_of(self, module: str) -> int:
        """Return a module's r."""
        rank: int = _by_pattern(self.ranks, module, self.rank)
        return rank

    def scaling(self, module: str) -> float:
        """Return a module's s."""
        rank = self.rank_of(module)
        alpha: float = _by_pattern(self.alphas, module, self.alpha)
        return alpha / (math.sqrt(rank) if self.rank_stabilised else rank)


@dataclass(slots=True, kw_only=True)
class Change:
    """What an adapter does to one tensor, by keys of its file.

    Attributes:
        whole: Values that take the place of the base's.
        down: A.
        up: B.
        turned: Whether it is Aᵀ Bᵀ that is added, as in embeddings and transposed layers.
        bias: What is added to a bias.
        magnitude: DoRA's m.
        scaling: s.
    """

    whole: str = ""
    down: str = ""
    up: str = ""
    turned: bool = False
    bias: str = ""
    magnitude: str = ""
    scaling: float = 0.0


class LoraReader:
    """A base model with a LoRA adapter applied, open for reading.

    Args:
        base: The open base, which may itself have an adapter applied; closed with this.
        folder: The adapter's directory.

    Attributes:
        metadata: The base's free texts, where it is made of safetensors files.
        carried: What a result gets beside weights: the base's.

    Raises:
        StoreError: If the adapter is damaged, is of another kind than LoRA, or has settings that are not understood.
        MismatchError: If it does not fit the base.
    """

    def __init__(self, base: Reader, folder: Path) -> None:
        self.base = base
        self.label = folder.name
        self.path = Path(f"{base.path}+{folder.name}")
        self.metadata: Mapping[str, str] = getattr(base, "metadata", {})
        self.carried: Mapping[str, Path] = getattr(base, "carried", {})
        config, weights = _files(folder)
        self.settings = read_settings(config, self.label)
        self._factors: OrderedDict[str, tuple[NDArray[Any], NDArray[Any]]] = OrderedDict()
        self._norms: dict[str, NDArray[np.float64]] = {}
        self._lock = threading.Lock()
        self._adapter = SafetensorsReader(weights)
        try:
            self._changes = _changes(self._adapter, base, self.settings, folder.name)
        except BaseException:
            self._adapter.close()
            raise
        files = (folder, config, weights)
        self.header = replace(
            base.header,
            files=(base.path, *base.header.files, *files),
            size_bytes=base.header.size_bytes + sum(file.stat().st_size for file in files[1:]),
            notes=(
                *base.header.notes,
                f"the adapter {folder.name} is applied to {len(self._changes)} of {len(base.specs())} tensors",
            ),
            provenance=None,
            cards=(*base.header.cards, card_of(folder)),
        )

    def specs(self) -> Mapping[str, TensorSpec]:
        """Return the base's specs, which an adapter does not change."""
        return self.base.specs()

    def key(self, name: str) -> str:
        """Return the base's key of a tensor."""
        return self.base.key(name)

    def read_into(self, name: str, start: int, out: Raw) -> None:
        """Fill `out` with raw elements of a tensor, adapted where the adapter says so."""
        change = self._changes.get(name)
        if change is None:
            self.base.read_into(name, start, out)
            return
        from graftwork.kernels.convert import encode

        spec = self.specs()[name]
        for at in range(0, out.size, CHUNK):
            raw = out[at : at + CHUNK]
            numbers = self._sum(name, change, start + at, raw.size)
            if change.magnitude:
                places = np.arange(start + at, start + at + raw.size)
                columns = spec.size // spec.shape[0]
                scales = self._scales(name, change)
                with np.errstate(over="ignore", invalid="ignore"):
                    numbers *= scales[places % columns if change.turned else places // columns]
            encode(numbers, spec.dtype, raw)

    def close(self) -> None:
        """Close the adapter and the base."""
        self._adapter.close()
        self.base.close()

    def __enter__(self) -> "LoraReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _sum(self, name: str, change: Change, start: int, size: int) -> "NDArray[np.float64]":
        """Return W + s B A from a flat position on, in float64."""
        numbers = _numbers(self._adapter if change.whole else self.base, change.whole or name, start, size, np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            if change.bias:
                numbers += change.scaling * _numbers(self._adapter, change.bias, start, size, np.float64)
            if change.down:
                from graftwork.kernels.low_rank import add_product

                left, right = self._pair(name, change)
                add_product(numbers, start, left, right, change.scaling)
        return numbers

    def _pair(self, name: str, change: Change) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the two factors whose product has the tensor's shape: B and A, or their transposes the other way round."""
        with self._lock:
            if name not in self._factors:
                down, up = (_whole(self._adapter, key) for key in (change.down, change.up))
                down, up = down.reshape(len(down), -1), up.reshape(len(up), -1)
                pair = (down.T, up.T) if change.turned else (up, down)
                self._factors[name] = (np.ascontiguousarray(pair[0]), np.ascontiguousarray(pair[1]))
                while len(self._factors) > KEPT:
                    self._factors.popitem(last=False)
            return self._factors[name]

    def _scales(self, name: str, change: Change) -> "NDArray[np.float64]":
        """Return m / ‖W + s B A‖ by output; the norms take one pass over the tensor, the first time."""
        with self._lock:
            found = self._norms.get(name)
        if found is not None:
            return found
        spec = self.specs()[name]
        rows, columns = spec.shape[0], spec.size // spec.shape[0]
        squares = np.zeros(columns if change.turned else rows)
        at_once = max(1, CHUNK // columns)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            for row in range(0, rows, at_once):
                count = min(at_once, rows - row)
                part = self._sum(name, change, row * columns, count * columns).reshape(count, columns)
                if change.turned:
                    squares += np.square(part).sum(axis=0)
                else:
                    squares[row : row + count] = np.square(part).sum(axis=1)
            scales: NDArray[np.float64] = _whole(self._adapter, change.magnitude).reshape(-1) / np.sqrt(squares)
        with self._lock:
            return self._norms.setdefault(name, scales)


def _numbers(reader: Reader, name: str, start: int, size: int, dtype: Any) -> NDArray[Any]:
    from graftwork.kernels.convert import decode

    spec = reader.specs()[name]
    raw = np.empty(size, RAW_DTYPES[spec.dtype])
    reader.read_into(name, start, raw)
    out = np.empty(size, dtype)
    decode(raw, spec.dtype, out)
    return out


def _whole(reader: Reader, name: str) -> NDArray[Any]:
    spec = reader.specs()[name]
    wide = np.float64 if spec.dtype == "float64" else np.float32
    return _numbers(reader, name, 0, spec.size, wide).reshape(spec.shape)


# What an adapter is ----------------------------------------------------------------------------------------------------


def recognise(folder: Path) -> bool:
    """Return whether a directory holds an adapter of PEFT."""
    return folder.is_dir() and (folder / CONFIG).exists() and (folder / WEIGHTS).exists()


def _files(folder: Path) -> tuple[Path, Path]:
    if not folder.exists():
        raise StoreError(f"there is no adapter {folder}")
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).exists():
            pickles = " (adapter_model.bin is a pickle, which can run any code; graftwork never opens one)"
            why = pickles if (folder / "adapter_model.bin").exists() else ""
            raise StoreError(f"{folder} is no LoRA adapter of PEFT: it has no {name}{why}")
    return inside(folder / CONFIG, folder), inside(folder / WEIGHTS, folder)


def read_settings(file: Path, label: str) -> Settings:
    """Return what an ``adapter_config.json`` says.

    Raises:
        StoreError: If it is not a LoRA's, contradicts itself, or has settings that are not understood.
    """
    where = f"{CONFIG} of {label}"
    found = read_json(read_small(file), where)
    if not isinstance(found, dict):
        raise StoreError(f"{where} is not a JSON object")
    kind = found.get("peft_type")
    if kind != "LORA":
        raise StoreError(f"{where} has the peft_type {_short(kind)}; graftwork applies LORA alone, merge it with PEFT")
    start = found.get("init_lora_weights")
    if not any(start is known or start == known for known in PLAIN_STARTS):
        raise StoreError(
            f"{where} has init_lora_weights {_short(start)}, which changes the base model before training; convert the adapter with "
            "PEFT (save_pretrained with path_initial_model_for_weight_conversion)"
        )
    for name, value in found.items():
        if value and name not in WITHOUT_EFFECT and name not in UNDERSTOOD:
            raise StoreError(
                f"{where} has the setting {name!r} ({_short(value)}), which graftwork does not apply and which may change what "
                "the adapter computes; merge it with PEFT (merge_and_unload)"
            )
    return Settings(
        rank=_checked(found.get("r"), _is_rank, f"{where} has r", "a whole number from 1 on"),
        alpha=_checked(found.get("lora_alpha"), _is_number, f"{where} has lora_alpha", "a finite number"),
        ranks=_patterns(found, "rank_pattern", _is_rank, where),
        alphas=_patterns(found, "alpha_pattern", _is_number, where),
        rank_stabilised=bool(found.get("use_rslora")),
        transposed=bool(found.get("fan_in_fan_out")),
        dora=bool(found.get("use_dora")),
    )


def _patterns(found: Mapping[str, Any], name: str, fits: Callable[[Any], bool], where: str) -> dict[str, Any]:
    value = found.get(name) or {}
    if not isinstance(value, dict):
        raise StoreError(f"{where} has {name} {_short(value)}, expected an object from modules to numbers")
    for pattern, number in value.items():
        _checked(number, fits, f"{where} has, for {pattern!r} in {name},", "a number as r or lora_alpha may be")
        try:
            re.compile(pattern)
        except re.error as error:
            raise StoreError(f"{where} has {pattern!r} in {name}, which is no regular expression: {error}") from error
    return value


def _by_pattern(patterns: Mapping[str, Any], module: str, otherwise: Any) -> Any:
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), otherwise)


def _is_rank(value: Any) -> bool:
    return type(value) is int and 0 < value < 1 << 31


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e30


def _checked(value: Any, fits: Callable[[Any], bool], what: str, expected: str) -> Any:
    if not fits(value):
        raise StoreError(f"{what} {_short(value)}, expected {expected}")
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


# How it fits its base --------------------------------------------------------------------------------------------------


def _changes(adapter: SafetensorsReader, base: Reader, settings: Settings, label: str) -> dict[str, Change]:
    """Return what happens to each tensor of the base.

    Raises:
        MismatchError: With every key of the adapter that does not fit.
    """
    modules: dict[str, dict[str, str]] = {}
    found: dict[str, Change] = {}
    reasons: list[str] = []
    specs = base.specs()
    for key, spec in adapter.specs().items():
        match = _FACTOR.fullmatch(key.removeprefix(PREFIX))
        if spec.dtype not in FLOATS:
            reasons.append(f"{key!r} of the adapter {label} holds {spec.dtype}, expected floating-point numbers")
        elif not key.startswith(PREFIX):
            reasons.append(f"{key!r} of the adapter {label} does not begin with {PREFIX!r}, as PEFT's keys do")
        elif match is None:
            _add_whole(found, key, spec, specs, label, reasons)
        else:
            slot = match["bare"] or match["slot"] + (".bias" if match["leaf"] == "bias" else "")
            slots = modules.setdefault(match["module"], {})
            if slot in slots:
                reasons.append(
                    f"the adapter {label} has {slot} of {match['module']!r} twice: {slots[slot]!r} and {key!r}"
                )
            slots[slot] = key
    for module, slots in modules.items():
        try:
            _add_factors(found, module, slots, adapter.specs(), base, settings)
        except MismatchError as error:
            reasons.append(f"the adapter {label} does not fit {base.path.name}: {error}")
    if not reasons and not found:
        reasons.append(f"the adapter {label} holds no tensors")
    if reasons:
        raise MismatchError(
            *reasons, advice="an adapter fits the model that it was trained on, with the same names of tensors"
        )
    return found


def _add_whole(
    found: dict[str, Change],
    key: str,
    spec: TensorSpec,
    specs: Mapping[str, TensorSpec],
    label: str,
    reasons: list[str],
) -> None:
    name = _WRAPPING.sub("", key.removeprefix(PREFIX))
    if name not in specs:
        reasons.append(
            f"{key!r} of the adapter {label} is no part of a LoRA and no tensor of the base; {suggest(name, specs)}"
        )
    elif spec.shape != specs[name].shape or specs[name].dtype not in FLOATS:
        reasons.append(
            f"{key!r} of the adapter {label} has shape {spec.shape} in {spec.dtype}, but {name!r} of the base has "
            f"{specs[name].shape} in {specs[name].dtype}"
        )
    elif name in found:
        reasons.append(f"the adapter {label} has {name!r} twice: {found[name].whole!r} and {key!r}")
    else:
        found[name] = Change(whole=key)


def _add_factors(
    found: dict[str, Change],
    module: str,
    slots: Mapping[str, str],
    specs: Mapping[str, TensorSpec],
    base: Reader,
    settings: Settings,
) -> None:
    """Add what a module's factors do; raise `MismatchError` where they do not fit."""
    embedding = any(slot.startswith("lora_embedding") for slot in slots)
    names = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A", "lora_B")
    for name in names:
        if name not in slots:
            raise MismatchError(f"module {module!r} has {', '.join(slots)}, but no {name}")
    odd = [slot for slot in slots if slot not in (*names, "lora_B.bias", "lora_magnitude_vector")]
    if odd:
        raise MismatchError(f"module {module!r} has {', '.join(odd)} beside {' and '.join(names)}")
    weight = base.specs().get(f"{module}.weight")
    if weight is None:
        raise MismatchError(
            f"the base has no tensor {module + '.weight'!r}; {suggest(module + '.weight', base.specs())}"
        )
    if weight.dtype not in FLOATS or weight.role.value == "quantized":
        raise MismatchError(
            f"{weight.name!r} of the base holds {weight.dtype} codes, which an adapter cannot be added to"
        )
    rank = settings.rank_of(module)
    turned = embedding or _is_transposed(module, base, settings)
    shape = weight.shape
    if len(shape) < 2 or (turned and len(shape) != 2):
        raise MismatchError(f"{weight.name!r} of the base has shape {shape}, expected a matrix")
    down, up = (specs[slots[name]] for name in names)
    expected = (
        ((rank, shape[0]), (shape[1], rank))
        if turned
        else ((rank, *shape[1:]), (shape[0], rank, *(1 for _ in shape[2:])))
    )
    for spec, wanted in zip((down, up), expected, strict=True):
        if spec.shape != wanted:
            raise MismatchError(
                f"{spec.name!r} has shape {spec.shape}, expected {wanted} for {weight.name!r} of shape {shape}, rank {rank}"
                + (" and transposed weights" if turned and not embedding else "")
            )
    magnitude = slots.get("lora_magnitude_vector", "")
    if bool(magnitude) != settings.dora:
        raise MismatchError(
            f"module {module!r} has {'a' if magnitude else 'no'} lora_magnitude_vector, but use_dora is {settings.dora}"
        )
    outputs = shape[1] if turned else shape[0]
    if magnitude and specs[magnitude].size != outputs:
        raise MismatchError(f"{magnitude!r} has shape {specs[magnitude].shape}, expected {outputs} magnitudes")
    change = found.setdefault(weight.name, Change())
    change.down, change.up, change.turned = down.name, up.name, turned
    change.magnitude, change.scaling = magnitude, settings.scaling(module)
    if "lora_B.bias" in slots:
        _add_bias(found, module, specs[slots["lora_B.bias"]], base, settings)


def _add_bias(found: dict[str, Change], module: str, spec: TensorSpec, base: Reader, settings: Settings) -> None:
    bias = base.specs().get(f"{module}.bias")
    if bias is None or bias.dtype not in FLOATS or bias.shape != spec.shape:
        has = f"{bias.shape} in {bias.dtype}" if bias else "nothing"
        raise MismatchError(f"{spec.name!r} has shape {spec.shape}, but {module + '.bias'!r} of the base is {has}")
    change = found.setdefault(bias.name, Change())
    change.bias, change.scaling = spec.name, settings.scaling(module)


def _is_transposed(module: str, base: Reader, settings: Settings) -> bool:
    """Return whether the base keeps a module's weights as (in, out).

    What the base is goes before what the adapter says: PEFT corrects the setting layer by layer, and saves what the last one had.
    """
    known = keeps_transposed(module, base)
    return settings.transposed if known is None else known


def keeps_transposed(module: str, base: Reader) -> bool | None:
    """Return whether a model keeps a module's weights as (in, out), None where its configuration does not tell."""
    config = base.header.config if base.header.config_kind == "huggingface" else None
    kind = config.get("model_type") if isinstance(config, dict) else None
    return module.rpartition(".")[2] in CONV1D_LAYERS if kind in CONV1D_MODELS else None


ADAPTER = Format(
    name="lora",
    summary="LoRA adapter of PEFT: adapter_config.json and adapter_model.safetensors",
    suffixes=(),
    recognise=recognise,
    open=SafetensorsReader,
    create=None,
    directory=True,
)
"""An adapter as a target; as a source it is read with its base, so it is no format of the registry."""
