"""From what users write to method instances: options by model, by tensor name, or both.

The value of any option is one of

- one value, for all models and tensors: ``0.2``;
- where the option may differ between models (`PerModel`): a list with one value per model in their order, or a mapping from
  model names to values, with ``default`` for the others;
- a list of entries ``{filter: …, value: …}`` with values of the former kinds. The first entry whose filter matches a tensor's
  canonical name counts; an entry without filter, or with ``"*"``, matches everything and comes last. Where none matches, the
  method's own default counts.

A filter is a glob over the whole name, in which ``*`` and ``?`` cross slashes (``encoder/*/kernel``), or, where it begins with
``re:``, a regular expression that is searched for anywhere in the name (``re:block_[0-3]/``).
"""

import fnmatch
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from annotated_types import Ge, Gt, Le, Lt
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from graftwork.errors import OptionError, suggest
from graftwork.methods.base import MergeMethod, get


class OptionRow(NamedTuple):
    """One option of a method, as help and docs show it."""

    name: str
    type: str
    default: Any
    per_model: bool
    doc: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One value of an option, and the names of tensors that it is for."""

    filter: str
    matches: Callable[[str], object]
    value: Any


class Options:
    """The options of one merge, checked at once.

    Args:
        method_name: What the method is called.
        raw: Option → what the user wrote.
        models: Names of the models in their order, without the base.
        has_base: Whether the merge has a base; None if that is not known (and so not checked).

    Raises:
        UnknownNameError: If there is no such method.
        OptionError: If there is no such option, or its value makes no sense.
    """

    def __init__(
        self, method_name: str, raw: Mapping[str, Any], models: Sequence[str], *, has_base: bool | None = None
    ) -> None:
        self.method = get(method_name)
        self.models = tuple(models)
        self._has_base = has_base
        self._instances: dict[tuple[tuple[str, Any], ...], MergeMethod] = {}
        fields = {spelling: name for name in self.method.model_fields for spelling in (name, spell(self.method, name))}
        self._entries: dict[str, tuple[Entry, ...]] = {}
        for option, value in raw.items():
            if option not in fields:
                known = [spell(self.method, name) for name in self.method.model_fields]
                raise OptionError(f"{method_name} has no option {option!r}; {suggest(str(option), known)}")
            if fields[option] in self._entries:
                raise OptionError(f"option {spell(self.method, fields[option])!r} of {method_name} is given twice")
            self._entries[fields[option]] = tuple(self._read(fields[option], value))
        if all(len(entries) == 1 and entries[0].filter == "*" for entries in self._entries.values()):
            self.for_tensor("")

    def for_tensor(self, name: str) -> MergeMethod:
        """Return the method with the options of one tensor; equal options give one and the same instance.

        Raises:
            OptionError: If options that make sense one by one do not together, or not for this number of models.
        """
        chosen = []
        for option, entries in self._entries.items():
            entry = next((entry for entry in entries if entry.matches(name)), None)
            if entry is not None:
                chosen.append((option, entry.value))
        key = tuple(chosen)
        if key not in self._instances:
            instance = self.method.model_validate(dict(chosen))
            instance.check(len(self.models), self._has_base)
            self._instances[key] = instance
        return self._instances[key]

    def unused_filters(self, names: Iterable[str]) -> list[str]:
        """Return the filters that match none of these tensor names, as ``option: filter``."""
        names = list(names)
        return [
            f"{spell(self.method, option)}: {entry.filter}"
            for option, entries in self._entries.items()
            for entry in entries
            if entry.filter != "*" and not any(entry.matches(name) for name in names)
        ]

    def _read(self, option: str, value: Any) -> Iterable[Entry]:
        """Return the entries of what the user wrote for one option."""
        what = f"option {spell(self.method, option)!r} of {self.method.name}"
        if not (isinstance(value, list | tuple) and value and all(isinstance(v, Mapping) for v in value)):
            return [Entry("*", _everything, self._value(what, option, value))]
        entries: list[Entry] = []
        for i, written in enumerate(value):
            if "value" not in written or not {"filter", "value"}.issuperset(written):
                keys = ", ".join(map(str, written))
                raise OptionError(f"entry {i + 1} of {what} has the keys {keys}; expected filter and value")
            if entries and entries[-1].filter == "*":
                raise OptionError(
                    f"entry {i + 1} of {what} never counts, since entry {i} matches every tensor; put that one last"
                )
            pattern = written.get("filter", "*")
            where = f"{what} for tensors {pattern!r}"
            entries.append(Entry(pattern, _matcher(where, pattern), self._value(where, option, written["value"])))
        return entries

    def _value(self, what: str, option: str, value: Any) -> Any:
        """Return a value as the method takes it: plain, or a tuple with one value per model."""
        field = self.method.model_fields[option]
        if isinstance(value, np.ndarray | np.generic):
            value = value.tolist()
        if isinstance(value, Mapping):
            value = self._by_model(what, field, value)
        elif isinstance(value, list | tuple):
            if not is_per_model(field):
                raise OptionError(f"{what} is a list, but it is one value for all models: {type_text(field)}")
            if len(value) != len(self.models):
                count = f"{len(value)} value{'s' * (len(value) != 1)}"
                raise OptionError(
                    f"{what} has {count}, but there are {len(self.models)} models: {', '.join(self.models)}"
                )
            value = tuple(value)
        adapter: TypeAdapter[Any] = TypeAdapter(single_type(field), config=ConfigDict(allow_inf_nan=False))
        try:
            if isinstance(value, tuple):
                return tuple(adapter.validate_python(_plain(v), strict=True) for v in value)
            return adapter.validate_python(value, strict=True)
        except ValidationError as error:
            found = error.errors()[0]["input"]
            hint = f"; {suggest(found, choices(field))}" if isinstance(found, str) and choices(field) else ""
            raise OptionError(f"{what} is {found!r}; expected {type_text(field)}{hint}") from error

    def _by_model(self, what: str, field: FieldInfo, value: Mapping[Any, Any]) -> tuple[Any, ...]:
        """Return the values of a mapping from model names in the order of the models."""
        if not is_per_model(field):
            raise OptionError(f"{what} is a mapping, but it is one value for all models: {type_text(field)}")
        for name in value:
            if name not in self.models and name != "default":
                raise OptionError(
                    f"{what} names the model {name!r}, which is not merged; {suggest(str(name), self.models)}"
                )
        missing = [name for name in self.models if name not in value]
        if missing and "default" not in value:
            raise OptionError(f"{what} has no value for {', '.join(missing)}; add them, or a `default`")
        return tuple(value[name] if name in value else value["default"] for name in self.models)


def option_rows(cls: type[MergeMethod]) -> list[OptionRow]:
    """Return a method's options in their order, with the words of its docstring."""
    docs = {name: doc for parent in reversed(cls.__mro__) for name, doc in _attribute_docs(parent).items()}
    return [
        OptionRow(spell(cls, name), type_text(field), field.default, is_per_model(field), docs.get(name, ""))
        for name, field in cls.model_fields.items()
    ]


def json_schema(cls: type[MergeMethod]) -> dict[str, Any]:
    """Return the JSON Schema of what a recipe may say of a method's options."""
    docs = {row.name: row.doc for row in option_rows(cls)}
    properties = {}
    for name, field in cls.model_fields.items():
        single = TypeAdapter(single_type(field)).json_schema()
        forms = [single]
        if is_per_model(field):
            forms += [
                {"type": "array", "items": single, "minItems": 1},
                {"type": "object", "additionalProperties": single, "minProperties": 1},
            ]
        entry = {
            "type": "object",
            "properties": {"filter": {"type": "string"}, "value": {"anyOf": forms}},
            "required": ["value"],
            "additionalProperties": False,
        }
        spelling = spell(cls, name)
        properties[spelling] = {
            "anyOf": [*forms, {"type": "array", "items": entry, "minItems": 1}],
            "default": field.default,
            "description": docs[spelling],
        }
    return {"type": "object", "properties": properties, "additionalProperties": False}


def spell(cls: type[MergeMethod], option: str) -> str:
    """Return how recipes spell the field `option`."""
    return cls.model_fields[option].alias or option


def is_per_model(field: FieldInfo) -> bool:
    """Return whether an option may differ between models."""
    return any(typing.get_origin(part) is tuple for part in _parts(field.annotation))


def single_type(field: FieldInfo) -> Any:
    """Return the type of one value of an option, with its constraints."""
    plain = [part for part in _parts(field.annotation) if typing.get_origin(part) is not tuple]
    single: Any = typing.Union.__getitem__(tuple(plain))
    for constraint in field.metadata:
        single = Annotated[single, constraint]
    return single


def choices(field: FieldInfo) -> list[str]:
    """Return the words an option may be, if it is one of several."""
    single = single_type(field)
    return [str(word) for word in typing.get_args(single)] if typing.get_origin(single) is Literal else []


def type_text(field: FieldInfo) -> str:
    """Return in words what one value of an option may be."""
    words = choices(field)
    if words:
        return " or ".join(filter(None, (", ".join(repr(word) for word in words[:-1]), repr(words[-1]))))
    single = single_type(field)
    plain, *metadata = typing.get_args(single) if typing.get_origin(single) is Annotated else (single,)
    bounds: list[Any] = [c for one in metadata for c in (one.metadata if isinstance(one, FieldInfo) else [one])]
    text: str = {float: "a number", int: "a whole number", bool: "true or false", str: "a text"}.get(plain, str(plain))
    lower = next((f"({c.gt:g}" if isinstance(c, Gt) else f"[{c.ge:g}" for c in bounds if isinstance(c, Gt | Ge)), "")
    upper = next((f"{c.lt:g})" if isinstance(c, Lt) else f"{c.le:g}]" for c in bounds if isinstance(c, Lt | Le)), "")
    return f"{text} in {lower or '(-inf'}, {upper or 'inf)'}" if lower or upper else text


def _parts(annotation: Any) -> tuple[Any, ...]:
    return (
        typing.get_args(annotation)
        if typing.get_origin(annotation) in (typing.Union, types.UnionType)
        else (annotation,)
    )


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _everything(name: str) -> bool:
    return True


def _matcher(what: str, pattern: Any) -> Callable[[str], object]:
    """Return what tells whether a tensor's name matches a filter."""
    if not isinstance(pattern, str):
        raise OptionError(f"the filter of {what} is not a text; write a glob, or a regular expression after re:")
    if pattern == "*":
        return _everything
    if not pattern.startswith("re:"):
        return re.compile(fnmatch.translate(pattern)).match
    try:
        return re.compile(pattern.removeprefix("re:")).search
    except re.error as error:
        raise OptionError(f"the filter of {what} is not a regular expression: {error}") from error


def _attribute_docs(cls: type) -> dict[str, str]:
    """Return the entries of the Attributes section of a class's docstring."""
    lines = inspect.cleandoc(cls.__dict__.get("__doc__") or "").splitlines()
    docs: dict[str, str] = {}
    if "Attributes:" not in lines:
        return docs
    name = ""
    for line in lines[lines.index("Attributes:") + 1 :]:
        if line and not line.startswith(" "):
            break
        entry = re.match(r" {4}(\w+): (.*)", line)
        if entry:
            name, docs[entry[1]] = entry[1], entry[2]
        elif name and line.strip():
            docs[name] += " " + line.strip()
    return docs
