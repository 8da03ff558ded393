"""Several SavedModels as one servable: the signatures of all of them, side by side."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from graftwork.errors import OptionError, UnknownNameError
from graftwork.models.savedmodel import beside
from graftwork.models.savedmodel.base import ServablePlan
from graftwork.models.savedmodel.serving import SERVING, Part, Sources, combine_parts, parts, rows, sessions

PREDICT = "tensorflow/serving/predict"
"""What TensorFlow Serving takes every signature for that TensorFlow 2 saves."""


def plan_combine(
    sources: Sources,
    *,
    rename: Mapping[str, str] | None = None,
    default: str | None = None,
    examples: str | None = None,
) -> ServablePlan:
    """Plan a SavedModel with the signatures of several.

    A signature keeps its name where no other has it, else it is ``label_signature``. What is served by default is that of the first part
    that has a default.

    Args:
        sources: The SavedModels.
        rename: Names of signatures in the result, by ``label.signature``.
        default: Which signature is served by default: ``label.signature``, or the label of a part.
        examples: A file with inputs to compare with.

    Raises:
        GraftworkError: If they do not go together.
    """
    given, rename = parts(sources, least=2), rename or {}
    names = _names(given, rename)
    chosen = _default(given, names, default)
    notes = []
    if chosen is not None:
        label, signature = chosen
        notes.append(f"{SERVING} is signature {signature!r} of {label}")
    else:
        notes.append(
            f"no part has a signature {SERVING!r}, so that the result has none; say default= if servers shall have one"
        )
    targets = {name: key for key, name in names.items()}
    if chosen is not None:
        if (
            chosen[1] == SERVING
            and sum(SERVING in part.signatures for part in given) == 1
            and f"{chosen[0]}.{SERVING}" not in rename
        ):
            del targets[names[chosen]]
        targets[SERVING] = chosen
    by_label = {part.label: part for part in given}
    signatures = {name: by_label[label].signature(signature) for name, (label, signature) in targets.items()}
    asked = [name for name, found in signatures.items() if found.method not in ("", PREDICT)]
    if asked:
        notes.append(f"{', '.join(asked)}: model servers answer to Predict alone, no longer to Classify or Regress")

    def make(target: Path) -> Sequence[str]:
        combine_parts(
            target,
            given,
            lambda functions: {name: functions[label][signature] for name, (label, signature) in targets.items()},
        )
        flows = {
            name: beside.Flow(
                inputs=signatures[name].inputs,
                steps=(
                    beside.Step(
                        part=label, signature=signature, feeds={key: (None, key) for key in signatures[name].inputs}
                    ),
                ),
                expected=lambda made: made[0],
            )
            for name, (label, signature) in targets.items()
        }
        return beside.check(target, sessions(given), flows, Path(examples) if examples else None)

    return ServablePlan(
        kind="savedmodel_combine",
        sources=tuple(sources),
        files=tuple(file for part in given for file in part.files),
        format="saved_model",
        signatures=rows({name: (found.inputs, found.outputs) for name, found in signatures.items()}),
        size_bytes=sum(part.size_bytes for part in given),
        make=make,
        tables={
            "signatures": [
                {"signature": name, "of": label, "there": signature} for name, (label, signature) in targets.items()
            ]
        },
        notes=tuple(notes),
    )


def _names(given: Sequence[Part], rename: Mapping[str, str]) -> dict[tuple[str, str], str]:
    """Return what every signature is called in the result, by label and its own name."""
    every = {f"{part.label}.{name}": (part.label, name) for part in given for name in part.signatures}
    unknown = [key for key in rename if key not in every]
    if unknown:
        raise UnknownNameError("signature (under `rename`)", unknown[0], every)
    count = Counter(name for _, name in every.values())
    found: dict[tuple[str, str], str] = {}
    for key, (label, name) in every.items():
        alone = count[name] == 1 and name != SERVING
        found[label, name] = rename.get(key, name if alone else f"{label}_{name}")
    twice = Counter(found.values())
    for (label, name), wanted in found.items():
        if twice[wanted] > 1 or wanted == SERVING or not wanted:
            why = "which `default` says" if wanted == SERVING else "which another signature is called as well"
            raise OptionError(
                f"signature {name!r} of {label} would be called {wanted!r}, {why}; "
                f'say rename={{"{label}.{name}": "another_name"}}'
            )
    return found


def _default(
    given: Sequence[Part], names: Mapping[tuple[str, str], str], default: str | None
) -> tuple[str, str] | None:
    """Return label and name of the signature that is served by default."""
    if default is None:
        return next(((part.label, SERVING) for part in given if SERVING in part.signatures), None)
    meant = {f"{label}.{name}": (label, name) for label, name in names}
    meant |= {wanted: key for key, wanted in names.items()}
    meant |= {part.label: (part.label, part.signature().name) for part in given if part.label == default}
    if default not in meant:
        raise UnknownNameError("part or signature (under `default`)", default, [p.label for p in given] + list(meant))
    return meant[default]
