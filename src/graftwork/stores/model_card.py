"""The model card of a merged model: ``README.md``, as the Hugging Face Hub reads it.

It begins with YAML between lines of dashes: ``base_model`` (what was merged), ``license``, ``tags``. A licence is stated only where
all sources state the same one; else the card says what each source says, and leaves the conclusion to people.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from graftwork.stores import hub
from graftwork.stores.files import open_fd

CARD = "README.md"

MAX_BYTES = 1 << 18
"""More of a card is not read; its YAML is at most a few kilobytes long."""

_LICENSE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]{0,60}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What identifies a model and what its card says.

    Attributes:
        name: ``ORG/NAME`` on the Hub, where that is known.
        revision: The commit, where the Hub's cache says it.
        file: The name of its directory.
        license: Its licence as its card spells it, empty where there is no card or it does not say.
    """

    name: str
    revision: str
    file: str
    license: str

    def to_dict(self) -> dict[str, str]:
        """Return everything as plain JSON values."""
        return asdict(self)


def card_of(folder: Path, config: Any = None) -> Card:
    """Return what is known of the model in a directory.

    `_name_or_path` in a configuration names what a model was loaded from when it was saved, as a rule its ancestor; it is believed
    where the directory is called the same.
    """
    name, revision = hub.origin(folder)
    if name:
        return Card(name=name, revision=revision, file=name.partition("/")[2], license=_license_in(folder / CARD))
    said = config.get("_name_or_path") if isinstance(config, dict) else None
    known = isinstance(said, str) and re.fullmatch(rf"[\w.-]+/{re.escape(folder.name)}", said)
    return Card(name=str(said) if known else "", revision="", file=folder.name, license=_license_in(folder / CARD))


def _license_in(file: Path) -> str:
    if not file.is_file():
        return ""
    import yaml

    fd = open_fd(file)
    with open(fd, "rb") as opened:
        text = opened.read(MAX_BYTES).decode("utf-8", "replace")
    front = re.match(r"---\s*\n(.*?)\n---\s*(?:\n|$)", text, re.DOTALL)
    try:
        found = yaml.safe_load(front[1]) if front else None
    except (yaml.YAMLError, RecursionError, ValueError):
        return ""
    if not isinstance(found, dict):
        return ""
    said = found.get("license")
    words = [word for word in (said if isinstance(said, list) else [said]) if isinstance(word, str)]
    more = found.get("license_name")
    return ", ".join(words)[:100] + (f" ({more[:60]})" if words and isinstance(more, str) else "")


def render(record: Mapping[str, Any]) -> str:
    """Return the card of a merged model.

    Args:
        record: What `graftwork.provenance.record` says: the ``sources``, and the step by its kind (``merge``).
    """
    import yaml

    sources = record["sources"]
    kind, step = next((kind, step) for kind, step in record.items() if kind not in ("graftwork", "sources"))
    method = str(step.get("method", step.get("merge_method", kind)))
    cards = [(source, card) for source in sources for card in _cards(source)]
    licence, sentence = _licences([card for _, card in cards])
    front = {
        "base_model": list(dict.fromkeys(card["name"] or card["file"] for _, card in cards)),
        "base_model_relation": "merge",
        "library_name": "transformers",
        "license": licence,
        "tags": ["merge", "graftwork", method],
    }
    base = step.get("base")
    models = [source for source in sources if source["label"] != base]
    models_at = {source["label"]: _spelled(source) for source in sources}
    recipe = dict(step) if kind == "mergekit" else {"models": models_at, "steps": {"merged": {kind: dict(step)}}}
    names = [_code(source["label"]) for source in models]
    rows = [
        f"| {_code(card['name'] or card['file'])} | {_part(source, card, base)} | {card['license'] or 'not stated'} |".replace(
            "\n", " "
        )
        for source, card in cards
    ]
    return "\n".join(
        [
            f"---\n{_yaml(yaml, front)}---",
            f"# {' + '.join(name.strip('`') for name in names)}",
            "",
            f"The weights of {_listed(names)} merged with the method `{method}`"
            + (f", {_code(base)} being their common base" if base else "")
            + f". Made with graftwork {record['graftwork']}, without training.",
            "",
            "| source | as | licence |",
            "|---|---|---|",
            *rows,
            "",
            *([sentence, ""] if sentence else []),
            "The recipe:",
            "",
            f"```yaml\n{_yaml(yaml, recipe)}```",
            "",
        ]
    )


def _yaml(yaml: Any, value: Any) -> str:
    text: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)
    return text


def _cards(source: Mapping[str, Any]) -> Sequence[Mapping[str, str]]:
    found: Sequence[Mapping[str, str]] = source.get("cards") or [
        {"name": "", "revision": "", "file": source["file"], "license": ""}
    ]
    return found


def _spelled(source: Mapping[str, Any]) -> str:
    return "+".join(_place(card) for card in _cards(source))


def _place(card: Mapping[str, str]) -> str:
    revision = f"@{card['revision']}" if card["revision"] else ""
    return f"hf://{card['name']}{revision}" if card["name"] else card["file"]


def _part(source: Mapping[str, Any], card: Mapping[str, str], base: Any) -> str:
    what = "base" if source["label"] == base else "model"
    return what if card is _cards(source)[0] else f"adapter of {_code(source['label'])}"


def _licences(cards: Sequence[Mapping[str, str]]) -> tuple[str, str]:
    """Return the result's licence, and what to say where the sources do not agree on one."""
    said = list(dict.fromkeys((card["name"] or card["file"], card["license"]) for card in cards))
    _, one = said[0]
    if all(text == one for _, text in said) and _LICENSE.fullmatch(one) and one != "other":
        return one, ""
    each = "; ".join(f"{_code(name)}: {text or 'not stated'}" for name, text in said)
    return "other", f"The sources' licences, all of which may bind the result, are these: {each}."


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _code(text: Any) -> str:
    return f"`{str(text).replace('`', '').replace('|', '/')}`"
