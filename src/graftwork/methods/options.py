"""From what users write to method instances: options by model, by tensor, by depth, or all of these.

The value of any option is one of

- one value, for all models and tensors: ``0.2``;
- a gradient over the depth of the model: ``{gradient: [0, 0.5, 1]}``, numbers at even distances from the first layer to the last, with
  straight lines between them;
- where the option may differ between models (`PerModel`): a list with one value or gradient per model in their order, or a mapping from
  model names to values or gradients, with ``default`` for the others;
- a list of entries ``{filter: …, role: …, layer: …, value: …}`` with values of the former kinds. The first entry that fits a tensor
  counts: whose filter matches its canonical name, whose role is its role and whose layer is the class of its layer, as far as the
  entry says. An entry that says none of these, or the filter ``"*"``, fits everything and comes last. Where none fits, the
  method's own default counts.

A filter is a glob over the whole name, in which ``*`` and ``?`` cross slashes (``encoder/*/kernel``); where it begins with ``re:``, a
regular expression that is searched for anywhere in the name (``re:block_[0-3]/``); where it begins with ``has:``, a text that is found
anywhere in it (``has:attention``).
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
from graftwork.tensor import Role

EXPONENTIAL = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+")
"""Numbers of which YAML makes texts where they have no point or no sign behind the e, as 1e-5 and 1.5e3 do."""

LEAST, GREATEST = 1e-30, 1e30
"""Magnitudes of numbers that products and quotients of float32 can be computed with; what is beyond gives infinity, or nothing at all."""


class OptionRow(NamedTuple):
    """One option of a method, as help and docs show it."""

    name: str
    type: str
    default: Any
    per_model: bool
    doc: str


class Place(NamedTuple):
    """Where a tensor stands in its model: what filters and gradients look at.

    Attributes:
        name: Its canonical name.
        role: Its role, a word of `graftwork.tensor.Role`.
        layer: The class of its layer, "" where the source holds no architecture.
        depth: 0 in the first layer, 1 in the last; None where the order of the layers is not known.
    """

    name: str
    role: str = "weight"
    layer: str = ""
    depth: float | None = None


@dataclass(frozen=True, slots=True)
class Gradient:
    """Values at even distances over the depth of a model, straight lines between them."""

    values: tuple[float, ...]

    def at(self, depth: float) -> float:
        """Return the value at a depth in [0, 1]."""
        place = depth * (len(self.values) - 1)
        left = min(int(place), len(self.values) - 1)
        right = min(left + 1, len(self.values) - 1)
        return self.values[left] + (place - left) * (self.values[right] - self.values[left])


@dataclass(frozen=True, slots=True)
class Entry:
    """One value of an option, and the tensors that it is for."""

    says: str
    fits: Callable[[Place], object]
    value: Any

    @property
    def fits_all(self) -> bool:
        """Return whether it is for every tensor."""
        return self.fits is _everything


class Options:
    """The options of one merge, checked at once.

    Args:
        method_name: What the method is called.
        raw: Option → what the user wrote.
        models: Names of the models in their order, without the base.
        has_base: Whether the merge has a base; None if that is not known (and so not checked).
        resolve: Tells the options of each tensor, where another dialect's rules say which value counts; takes the place of `raw`.

    Raises:
        UnknownNameError: If there is no such method.
        OptionError: If there is no such option, or its value makes no sense.
    """

    def __init__(
        self,
        method_name: str,
        raw: Mapping[str, Any],
        models: Sequence[str],
        *,
        has_base: bool | None = None,
        resolve: Callable[[Place], Mapping[str, Any]] | None = None,
    ) -> None:
        self.method = get(method_name)
        self.models = tuple(models)
        self._has_base = has_base
        self._resolve = resolve
        self._instances: dict[tuple[tuple[str, Any], ...], MergeMethod] = {}
        self._resolved: dict[str, dict[str, tuple[Entry, ...]]] = {}
        self._entries = self._read_all(raw)
        if resolve is None and all(len(entries) == 1 and entries[0].fits_all for entries in self._entries.values()):
            self.for_tensor(Place("", depth=0.0))

    def for_tensor(self, place: Place) -> MergeMethod:
        """Return the method with the options of one tensor; equal options give one and the same instance.

        Raises:
            OptionError: If options that make sense one by one do not together, or not for this number of models.
        """
        chosen = []
        entries_of = self._entries if self._resolve is None else self._read_once(self._resolve(place))
        for option, entries in entries_of.items():
            entry = next((entry for entry in entries if entry.fits(place)), None)
            if entry is not None:
                chosen.append((option, self._at(option, entry.value, place)))
        key = tuple(chosen)
        if key not in self._instances:
            instance = self.method.model_validate(dict(chosen))
            instance.check(len(self.models), self._has_base)
            self._instances[key] = instance
        return self._instances[key]

    def unused_filters(self, places: Iterable[Place]) -> list[str]:
        """Return the filters that match none of these tensors, as ``option: filter``."""
        places = list(places)
        return [
            f"{spell(self.method, option)}: {entry.says}"
            for option, entries in self._entries.items()
            for entry in entries
            if not entry.fits_all and not any(entry.fits(place) for place in places)
        ]

    def _at(self, option: str, value: Any, place: Place) -> Any:
        """Return a value with its gradients taken at a tensor's depth."""
        parts = value if isinstance(value, tuple) else (value,)
        if not any(isinstance(part, Gradient) for part in parts):
            return value
        if place.depth is None:
            raise OptionError(
                f"option {spell(self.method, option)!r} of {self.method.name} is a gradient, but how deep {place.name!r} lies in the model "
                "is not known: its source holds no architecture, and its name no number as in 'layers.3.'; give values by filter"
            )
        taken = tuple(part.at(place.depth) if isinstance(part, Gradient) else part for part in parts)
        return taken if isinstance(value, tuple) else taken[0]

    def _read_once(self, raw: Mapping[str, Any]) -> dict[str, tuple[Entry, ...]]:
        """As `_read_all`; most tensors have the same options as others."""
        said = repr(raw)
        if said not in self._resolved:
            self._resolved[said] = self._read_all(raw)
        return self._resolved[said]

    def _read_all(self, raw: Mapping[str, Any]) -> dict[str, tuple[Entry, ...]]:
        """Return the entries of every option."""
        name_of = {spelling: name for name in self.method.model_fields for spelling in (name, spell(self.method, name))}
        found: dict[str, tuple[Entry, ...]] = {}
        for option, value in raw.items():
            if option not in name_of:
                known = [spell(self.method, name) for name in self.method.model_fields]
                raise OptionError(f"{self.method.name} has no option {option!r}; {suggest(str(option), known)}")
            if name_of[option] in found:
                raise OptionError(
                    f"option {spell(self.method, name_of[option])!r} of {self.method.name} is given twice"
                )
            found[name_of[option]] = tuple(self._read(name_of[option], value))
        return found

    def _read(self, option: str, value: Any) -> Iterable[Entry]:
        """Return the entries of what the user wrote for one option."""
        what = f"option {spell(self.method, option)!r} of {self.method.name}"
        written_out = isinstance(value, list | tuple) and value and all(isinstance(v, Mapping) for v in value)
        if not written_out or any(self._is_gradient(v) for v in value):
            return [Entry("*", _everything, self._value(what, option, value))]
        entries: list[Entry] = []
        for i, written in enumerate(value):
            if "value" not in written or not {"filter", "role", "layer", "value"}.issuperset(written):
                keys = ", ".join(map(str, written))
                raise OptionError(
                    f"entry {i + 1} of {what} has the keys {keys}; expected value, and filter, role or layer"
                )
            if entries and entries[-1].fits_all:
                raise OptionError(
                    f"entry {i + 1} of {what} never counts, since entry {i} matches every tensor; put that one last"
                )
            conditions = {key: word for key, word in written.items() if key != "value"}
            says = (
                ", ".join(str(word) if key == "filter" else f"{key} {word}" for key, word in conditions.items()) or "*"
            )
            where = f"{what} for tensors {says!r}"
            entries.append(Entry(says, _condition(where, conditions), self._value(where, option, written["value"])))
        return entries

    def _value(self, what: str, option: str, value: Any) -> Any:
        """Return a value as the method takes it: plain, or a tuple with one value per model."""
        field = self.method.model_fields[option]
        if isinstance(value, np.ndarray | np.generic):
            value = value.tolist()
        if self._is_gradient(value):
            return self._gradient(what, field, value["gradient"])
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
        if isinstance(value, tuple):
            return tuple(
                self._gradient(what, field, v["gradient"]) if self._is_gradient(v) else _single(what, field, _plain(v))
                for v in value
            )
        return _single(what, field, value)

    def _is_gradient(self, value: Any) -> bool:
        return isinstance(value, Mapping) and set(value) == {"gradient"} and "gradient" not in self.models

    def _gradient(self, what: str, field: FieldInfo, values: Any) -> Gradient:
        """Return a gradient, each of whose values the option could have."""
        if not isinstance(values, list | tuple) or not values:
            raise OptionError(
                f"{what} has the gradient {values!r}; expected a list of numbers from the first layer to the last"
            )
        if is_number(field):
            return Gradient(tuple(_single(f"{what} in a gradient", field, _plain(v)) for v in values))
        raise OptionError(f"{what} is a gradient, which needs numbers; expected {type_text(field)}")

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


def _single(what: str, field: FieldInfo, value: Any) -> Any:
    """Return one value of an option if it may have it."""
    adapter: TypeAdapter[Any] = TypeAdapter(single_type(field), config=ConfigDict(allow_inf_nan=False))
    if isinstance(value, str) and is_number(field) and EXPONENTIAL.fullmatch(value):
        value = float(value)
    try:
        checked = adapter.validate_python(value, strict=True)
    except ValidationError as error:
        found = error.errors()[0]["input"]
        hint = f"; {suggest(found, choices(field))}" if isinstance(found, str) and choices(field) else ""
        raise OptionError(f"{what} is {found!r}; expected {type_text(field)}{hint}") from error
    if is_number(field) and checked and not LEAST <= abs(checked) <= GREATEST:
        raise OptionError(
            f"{what} is {value!r}, too far from 1 to compute with; expected 0, or {LEAST:g} to {GREATEST:g} in magnitude"
        )
    return checked


def option_rows(cls: type[MergeMethod]) -> list[OptionRow]:
    """Return a method's options in their order, with the words of its docstring."""
    docs = {name: doc for parent in reversed(cls.__mro__) for name, doc in _attribute_docs(parent).items()}
    return [
        OptionRow(spell(cls, name), type_text(field), field.default, is_per_model(field), docs.get(name, ""))
        for name, field in cls.model_fields.items()
    ]


def companion_files(method_name: str, raw: Mapping[str, Any], models: Sequence[str]) -> tuple[str, ...]:
    """Return the files, as the user wrote them, that tell more about the models of a merge: one per model, or none for most methods.

    Args:
        method_name: What the method is called.
        raw: Option → what the user wrote.
        models: Names of the models in their order, without the base.

    Raises:
        OptionError: If the method needs such files, and these are not one per model.
    """
    option = get(method_name).companion
    if not option:
        return ()
    options = Options(method_name, {option: raw.get(option, "")}, models)
    if options.unused_filters(()):
        raise OptionError(
            f"option {option!r} of {method_name} is for all tensors; give one file per model, and no filters"
        )
    found = getattr(options.for_tensor(Place("")), option)
    files: tuple[str, ...] = found if isinstance(found, tuple) else (found,) * (len(models) == 1)
    if not files or not all(files):
        raise OptionError(
            f"method {method_name!r} needs option {option!r}: a list with one file per model, as `graftwork {option}` writes them; "
            f"there are {len(models)} models: {', '.join(models)}"
        )
    return files


def json_schema(cls: type[MergeMethod]) -> dict[str, Any]:
    """Return the JSON Schema of what a recipe may say of a method's options."""
    docs = {row.name: row.doc for row in option_rows(cls)}
    properties = {}
    for name, field in cls.model_fields.items():
        single = TypeAdapter(single_type(field)).json_schema()
        one = [single]
        if is_number(field):
            one.append(
                {
                    "type": "object",
                    "properties": {"gradient": {"type": "array", "items": single, "minItems": 1}},
                    "required": ["gradient"],
                    "additionalProperties": False,
                }
            )
        forms = list(one)
        if is_per_model(field):
            forms += [
                {"type": "array", "items": {"anyOf": one}, "minItems": 1},
                {"type": "object", "additionalProperties": {"anyOf": one}, "minProperties": 1},
            ]
        entry = {
            "type": "object",
            "properties": {
                "filter": {"type": "string"},
                "role": {"enum": [str(role) for role in Role]},
                "layer": {"type": "string"},
                "value": {"anyOf": forms},
            },
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


def is_number(field: FieldInfo) -> bool:
    """Return whether an option is a number that may be any between two others."""
    single = single_type(field)
    return single is float or typing.get_args(single)[:1] == (float,)


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


def _everything(place: Place) -> bool:
    return True


def _condition(what: str, conditions: Mapping[str, Any]) -> Callable[[Place], object]:
    """Return what tells whether an entry is for a tensor."""
    for key, word in conditions.items():
        if not isinstance(word, str):
            kinds = "a glob, a regular expression after re:, or a text after has:" if key == "filter" else "a word"
            raise OptionError(f"the {key} of {what} is not a text; write {kinds}")
    pattern, role, layer = (conditions.get(key) for key in ("filter", "role", "layer"))
    roles = [str(known) for known in Role]
    if role is not None and role not in roles:
        raise OptionError(f"the role of {what} is not known; {suggest(role, roles)}")
    named = None if pattern in (None, "*") else _matcher(what, pattern)
    if named is None and role is None and layer is None:
        return _everything

    def fits(place: Place) -> bool:
        return (
            (role is None or place.role == role)
            and (layer is None or place.layer == layer)
            and (named is None or bool(named(place.name)))
        )

    return fits


def _matcher(what: str, pattern: str) -> Callable[[str], object]:
    """Return what tells whether a tensor's name matches a filter."""
    if pattern.startswith("has:"):
        text = pattern.removeprefix("has:")
        return lambda name: text in name
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
