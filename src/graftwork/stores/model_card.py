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

    kind, step = step_of(record)
    method = str(step.get("method", step.get("merge_method", kind)))
    parts = _parts(record)
    cards = [card for card, _ in parts]
    licence, sentence = _licences(cards)
    front = {
        "base_model": list(dict.fromkeys(card["name"] or card["file"] for card in cards)),
        "base_model_relation": "merge",
        "library_name": "transformers",
        "license": licence,
        "tags": ["merge", "graftwork", method],
    }
    base = _base(step)
    names = [_code(source["label"]) for source in record["sources"] if source["label"] != base]
    between = [_code(source["label"]) for source in record["sources"] if "made" in source]
    rows = [
        f"| {_code(card['name'] or card['file'])} | {part} | {card['license'] or 'not stated'} |".replace("\n", " ")
        for card, part in parts
    ]
    return "\n".join(
        [
            f"---\n{_yaml(yaml, front)}---",
            f"# {' + '.join(name.strip('`') for name in names)}",
            "",
            f"The weights of {_listed(names)} merged with the method `{method}`"
            + (f", {_code(base)} being their common base" if base else "")
            + (f"; {_listed(between)} {'was' if len(between) == 1 else 'were'} made on the way" if between else "")
            + f". Made with graftwork {record['graftwork']}, without training.",
            "",
            "| source | as | licence |",
            "|---|---|---|",
            *rows,
            "",
            *([sentence, ""] if sentence else []),
            "The recipe:",
            "",
            "```yaml",
            "---\n".join(_yaml(yaml, document) for document in _recipe(record)) + "```",
            "",
        ]
    )


def step_of(record: Mapping[str, Any]) -> tuple[str, Any]:
    """Return the kind of step that a record is of, and its settings; a question mark where it names none."""
    beside = ("graftwork", "sources", "companions", "custom_objects", "passing")
    return next(((kind, step) for kind, step in record.items() if kind not in beside), ("?", {}))


def _base(step: Mapping[str, Any]) -> Any:
    return step.get("base", step.get("base_model"))


def _parts(record: Mapping[str, Any], within: str = "") -> list[tuple[Mapping[str, str], str]]:
    """Return the card of everything that a model was made of, and what it was; what was made on the way by its own parts."""
    found: list[tuple[Mapping[str, str], str]] = []
    base = _base(step_of(record)[1])
    for source in record["sources"]:
        label = _code(source["label"])
        if "made" in source:
            found += _parts(source["made"], f" of {label}")
            continue
        first, *adapters = _cards(source)
        found.append((first, ("base" if source["label"] == base else "model") + within))
        found += [(card, f"adapter of {label}") for card in adapters]
    return found


def _recipe(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the documents of the recipe, with the steps that made what is gone."""
    kind, step = step_of(record)
    if kind == "mergekit":
        before = [document for source in record["sources"] if "made" in source for document in _recipe(source["made"])]
        return [*(each for k, each in enumerate(before) if each not in before[:k]), dict(step)]
    models: dict[str, str] = {}
    steps: dict[str, Any] = {}

    def add(name: str, made: Mapping[str, Any]) -> None:
        for source in made["sources"]:
            if "made" in source:
                add(source["label"], source["made"])
            else:
                models[source["label"]] = _spelled(source)
        kind, step = step_of(made)
        steps[name] = {kind: dict(step)}

    add("merged", record)
    return [{"models": models, "steps": steps}]


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
