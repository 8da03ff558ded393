"""SavedModels one behind the other: what one gives goes into the next."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from graftwork.errors import MismatchError, OptionError, UnknownNameError
from graftwork.models.savedmodel import beside
from graftwork.models.savedmodel.base import ServablePlan
from graftwork.models.savedmodel.serving import (
    SERVING,
    Part,
    Sources,
    as_word,
    chosen_signatures,
    combine_parts,
    function_of,
    parts,
    rows,
    sessions,
    unlike,
)
from graftwork.stores.saved_program import Port, Signature

INPUT = "input"
"""What `connect` says of an input that becomes one of the result."""

Feed = tuple[str | None, str]
"""Where an input comes from: a part and its output, or None and an input of the result."""


def plan_chain(
    sources: Sources,
    *,
    connect: Mapping[str, str] | None = None,
    signatures: Mapping[str, str] | None = None,
    examples: str | None = None,
) -> ServablePlan:
    """Plan a SavedModel that calls a signature of each of several, one after the other.

    Args:
        sources: The SavedModels, in this order.
        connect: Which output goes to an input, by ``part.input``.
        signatures: Which signature of a part is called, by its label.
        examples: A file with inputs to compare with.

    Raises:
        GraftworkError: If they do not go together.
    """
    given = parts(sources, least=2)
    chosen = chosen_signatures(given, signatures or {})
    wiring = _Wiring(given, chosen, connect or {})
    outputs = chosen[given[-1].label].outputs

    def run(functions: Mapping[str, Any], tensors: Mapping[str, Any]) -> Mapping[str, Any]:
        made: dict[str | None, Mapping[str, Any]] = {None: tensors}
        for part in given:
            feeds = wiring.feeds[part.label]
            made[part.label] = functions[part.label](**{port: made[giver][key] for port, (giver, key) in feeds.items()})
        return made[given[-1].label]

    def make(target: Path) -> Sequence[str]:
        def build(functions: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
            called = {label: functions[label][found.name] for label, found in chosen.items()}
            return {SERVING: function_of(lambda tensors: run(called, tensors), wiring.inputs)}

        combine_parts(target, given, build)
        at = {part.label: number for number, part in enumerate(given)}
        steps = [
            beside.Step(
                part=part.label,
                signature=chosen[part.label].name,
                feeds={
                    port: (None if giver is None else at[giver], key)
                    for port, (giver, key) in wiring.feeds[part.label].items()
                },
            )
            for part in given
        ]
        every = [port for found in chosen.values() for port in (*found.inputs.values(), *found.outputs.values())]
        batches = [port.shape[0] for port in every if port.shape and port.shape[0] is not None]
        flow = beside.Flow(
            inputs=wiring.inputs, steps=steps, expected=lambda made: made[-1], exact=False, batches=batches
        )
        return beside.check(target, sessions(given), {SERVING: flow}, Path(examples) if examples else None)

    return ServablePlan(
        kind="savedmodel_chain",
        sources=tuple(sources),
        files=tuple(file for part in given for file in part.files),
        format="saved_model",
        signatures=rows({SERVING: (wiring.inputs, outputs)}),
        size_bytes=sum(part.size_bytes for part in given),
        make=make,
        tables={"connections": wiring.table()},
        notes=wiring.notes(),
    )


class _Wiring:
    """Which output goes to which input.

    Args:
        given: The parts, in order.
        chosen: The signature that is called of each.
        connect: What the user says.

    Attributes:
        feeds: For each part, where each of its inputs comes from.
        inputs: What the result takes.
    """

    def __init__(self, given: Sequence[Part], chosen: Mapping[str, Signature], connect: Mapping[str, str]) -> None:
        self.chosen, self.order = chosen, [part.label for part in given]
        self.inputs: dict[str, Port] = {}
        said = self._said(connect)
        self.feeds: dict[str, dict[str, Feed]] = {}
        for number, label in enumerate(self.order):
            self.feeds[label] = {}
            for port in chosen[label].inputs.values():
                feed: Feed = (None, port.key)
                if number:
                    feed = said.get((label, port.key)) or self._meets(self.order[number - 1], label, port)
                giver, key = feed
                if giver is None:
                    taken = {as_word(name) for name in self.inputs}
                    key = port.key if as_word(port.key) not in taken else f"{label}.{port.key}"
                    self.inputs[key] = replace(port, key=key)
                else:
                    self._check(giver, chosen[giver].outputs[key], label, port)
                self.feeds[label][port.key] = (giver, key)

    def table(self) -> list[Mapping[str, Any]]:
        """Return what goes where, as rows."""
        return [
            {
                "input": f"{label}.{port}",
                "gets": f"{giver}.{key}" if giver is not None else f"input {key!r} of the result",
            }
            for label, feeds in self.feeds.items()
            for port, (giver, key) in feeds.items()
        ]

    def notes(self) -> tuple[str, ...]:
        """Return what is left over."""
        used = {feed for feeds in self.feeds.values() for feed in feeds.values()}
        return tuple(
            f"of {label}, nothing takes the output {', '.join(map(repr, idle))}; the result does not have it"
            for label in self.order[:-1]
            if (idle := [key for key in self.chosen[label].outputs if (label, key) not in used])
        )

    def _said(self, connect: Mapping[str, str]) -> dict[tuple[str, str], Feed]:
        ins = {label: found.inputs for label, found in self.chosen.items()}
        outs = {label: found.outputs for label, found in self.chosen.items()}
        found: dict[tuple[str, str], Feed] = {}
        for target, source in connect.items():
            label, port = _port(target, ins, "input")
            if label == self.order[0]:
                raise OptionError(f"connect: {target!r} is an input of the first part, which is an input of the result")
            if source == INPUT:
                found[label, port] = (None, port)
                continue
            giver, key = _port(source, outs, "output")
            if self.order.index(giver) >= self.order.index(label):
                raise OptionError(f"connect: {giver!r} comes after {label!r} in the chain, so it cannot feed it")
            found[label, port] = (giver, key)
        return found

    def _meets(self, before: str, label: str, port: Port) -> Feed:
        """Return the output of the part before that an input takes where nothing is said."""
        offered, taken = self.chosen[before].outputs, self.chosen[label].inputs
        if port.key in offered:
            return before, port.key
        if len(offered) == 1 and len(taken) == 1:
            return before, next(iter(offered))
        fitting = next((key for key, output in offered.items() if not unlike(output, port)), None)
        said, more = (
            (f"{before}.{fitting}", f', or "{INPUT}"')
            if fitting is not None
            else (INPUT, f"; nothing of {before} fits")
        )
        raise MismatchError(
            f"{label} takes {_listed(taken)} and {before} gives {_listed(offered)}: nothing is called {port.key!r}",
            advice=f'say what it gets: connect={{"{label}.{port.key}": "{said}"}}{more}',
        )

    def _check(self, giver: str, output: Port, label: str, port: Port) -> None:
        why = unlike(output, port)
        if why:
            raise MismatchError(
                f"{giver}.{output.key} gives {output} and {label}.{port.key} takes {port}: {why}",
                advice="nothing is adapted unasked; save one of them with what the other one has",
            )


def _listed(ports: Mapping[str, Port]) -> str:
    return ", ".join(f"{key!r} {port}" for key, port in ports.items())


def _port(text: str, ports: Mapping[str, Mapping[str, Port]], what: str) -> tuple[str, str]:
    """Return the part and the port that ``part.port`` or ``part`` names; names may hold points themselves."""
    for label, known in ports.items():
        if text == label and len(known) == 1:
            return label, next(iter(known))
        if text.startswith(f"{label}.") and text.removeprefix(f"{label}.") in known:
            return label, text.removeprefix(f"{label}.")
    raise UnknownNameError(what, text, [f"{label}.{key}" for label, known in ports.items() for key in known])
