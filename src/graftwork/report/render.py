"""Numbers as text for a terminal: tables that are as wide as they need to be when standard output is a file."""

import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from graftwork.report.columns import filled, in_columns
from graftwork.stores import FORMATS
from graftwork.stores.model_card import step_of
from graftwork.tensor import Role

if TYPE_CHECKING:  # what reports are made from, each of which the verb that makes it has loaded
    from graftwork.extraction import Extraction
    from graftwork.methods.base import MergeMethod
    from graftwork.report.inspection import Inspection, TensorRow
    from graftwork.report.measure import Diff
    from graftwork.report.program import SavedModelListing
    from graftwork.report.verification import Verification
    from graftwork.training.evaluation import Evaluation, Verdict

HEAT = "▁▂▃▄▅▆▇█"
"""One character from 0.01 % to 100 % relative distance, on a logarithmic scale; a dot where nothing differs."""


def size(nbytes: float) -> str:
    """Return a number of bytes as people write it."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if nbytes < 1024 or unit == "GiB":
            return f"{nbytes:,.0f} {unit}" if unit == "B" else f"{nbytes:,.1f} {unit}"
        nbytes /= 1024
    return ""


def heat(distance: float) -> str:
    """Return one character for a relative distance."""
    if distance == 0:
        return "·"
    if not math.isfinite(distance):
        return HEAT[-1]
    place = (math.log10(distance) + 4) / 4 * len(HEAT)
    return HEAT[max(0, min(len(HEAT) - 1, int(place)))]


def table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = (), file: TextIO | None = None
) -> None:
    """Print a table.

    Args:
        columns: Their headings.
        rows: One text for each column.
        right: Headings of columns that are aligned to the right, as numbers are.
        file: Where to, by default standard output.
    """
    at = [k for k, name in enumerate(columns) if name in right]
    print("\n".join(in_columns([columns, *rows], at)), file=file)


def paragraph(text: str) -> None:
    """Print a paragraph, after an empty line."""
    _say("\n" + filled(text))


def _say(line: str) -> None:
    print(line)  # noqa: T201


def _facts(rows: Iterable[tuple[str, Any]]) -> None:
    told = [(name, str(value)) for name, value in rows if value not in ("", None, (), {})]
    _say("\n".join(in_columns(told)))


def _notes(notes: Sequence[str]) -> None:
    for note in notes:
        _say(f"note: {note}")


def inspection(found: "Inspection", *, tensors: bool) -> None:
    """Print what a file says of itself."""
    own = sum(n for role, n in found.roles.items() if role != Role.OPTIMIZER)
    _facts(
        [
            ("file", found.path),
            ("format", found.format + (f", written by {found.library}" if found.library else "")),
            ("model", found.model + (f", {found.layers} layers" if found.layers is not None else "")),
            ("parameters", f"{found.parameters:,} ({found.trainable:,} weights) in {own:,} tensors"),
            ("dtypes", ", ".join(f"{n:,} {dtype}" for dtype, n in found.dtypes.items())),
            ("roles", ", ".join(f"{n:,} {role}" for role, n in found.roles.items())),
            ("size", size(found.size_bytes)),
            ("assets", ", ".join(found.assets)),
            ("made by", _made_by(found.provenance)),
        ]
    )
    _notes(found.notes)
    if tensors:
        table(
            ("tensor", "shape", "dtype", "role", "key"),
            [(s.name, _shape(s.shape), s.dtype, str(s.role), found.keys[s.name]) for s in found.tensors],
        )


def listing(rows: "Sequence[TensorRow]") -> None:
    """Print the tensors of a file, and how many and how large they are."""
    columns = ["tensor", "shape", "dtype", "size", "role"]
    cells = [[row.name, _shape(row.shape), row.dtype, size(row.size_bytes), row.role] for row in rows]
    if any(row.key != row.name for row in rows):
        columns.append("key")
        cells = [[*cell, row.key] for cell, row in zip(cells, rows, strict=True)]
    table(columns, cells, right=("size",))
    _say(f"{len(rows):,} tensor{'s' * (len(rows) != 1)}, {size(sum(row.size_bytes for row in rows))}")


def program(found: "SavedModelListing") -> None:
    """Print what a SavedModel offers."""
    kind = "a graph of TensorFlow 1" if found.of_tf1 else "objects of TensorFlow 2"
    keras = ", with the configuration of a Keras 2 model" if found.keras else ""
    _say(f"{found.path}: {kind}, by TensorFlow {found.tensorflow or '?'}, tags {', '.join(found.tags)}{keras}")
    for row in found.signatures:
        _say("")
        _say(f"signature {row.name}: " + (f"a bridge gives a {_BRIDGES[row.becomes]}" if row.becomes else "no bridge"))
        if row.why:
            _say(filled(f"({row.why})"))
        ports = [("input", port) for port in row.inputs] + [("output", port) for port in row.outputs]
        table(["", "name", "shape", "dtype"], [[word, p.name, _open_shape(p.shape), p.dtype] for word, p in ports])
        if row.tensors is not None:
            cells = [[t.name, t.op, _open_shape(t.shape), t.dtype, t.output] for t in row.tensors]
            table(["tensor inside", "operation", "shape", "dtype", "output"], cells)
    _say("")
    for name, keys, values in found.tables:
        _say(f"table {name}: {keys} → {values}")
    for name in found.assets:
        _say(f"asset {name}")
    for name in found.python:
        _say(f"Python function in node {name}, which no file holds")
    for name in found.outside:
        _say(f"reads {name}, which is not its own")
    if found.variables:
        listing(found.variables)


_BRIDGES = {"rebuild": "plain Keras model", "layer": "frozen layer"}


def _open_shape(shape: Sequence[int | None] | None) -> str:
    return "…" if shape is None else "×".join("?" if n is None else str(n) for n in shape) or "scalar"


def _shape(shape: Sequence[int]) -> str:
    return "×".join(str(n) for n in shape) or "scalar"


def _made_by(record: Any) -> str:
    if not isinstance(record, Mapping):
        return ""
    sources = ", ".join(str(s.get("file", "?")) for s in record.get("sources", ()) if isinstance(s, Mapping))
    verb, settings = step_of(record)
    method = settings.get("method", settings.get("merge_method", "")) if isinstance(settings, Mapping) else ""
    return f"graftwork {record.get('graftwork', '?')}: {verb} {method}".rstrip() + (f" of {sources}" if sources else "")


def difference(found: "Diff", *, tensors: bool) -> None:
    """Print how two models differ."""
    for line in found.structure:
        _say(f"structure: {line}")
    for name in found.only_a:
        _say(f"only in {found.a}: {name}")
    for name in found.only_b:
        _say(f"only in {found.b}: {name}")
    for name, a, b in found.reshaped:
        _say(f"other shape: {name} is {_shape(a)} in {found.a} but {_shape(b)} in {found.b}")
    retyped: dict[tuple[str, str], list[str]] = {}
    for name, ours, theirs in found.retyped:
        retyped.setdefault((ours, theirs), []).append(name)
    for (ours, theirs), names in retyped.items():
        _say(
            f"other dtype: {_and_more(names)} {'are' if names[1:] else 'is'} {ours} in {found.a} but {theirs} in {found.b}"
        )
    _notes(found.notes)
    count = f"{len(found.tensors):,} tensor{'s' * (len(found.tensors) != 1)}"
    if found.equal:
        word = "identical" if found.identical else "equal values" if found.tensors else "nothing to compare"
        _say(f"{word}: {count}")
        return
    if tensors:
        numbers = ("distance", "cosine", "same sign", "largest")
        rows = [
            (
                t.name,
                heat(t.distance),
                f"{t.distance:.3%}",
                f"{t.cosine:.4f}",
                f"{t.sign_agreement:.1%}",
                f"{t.largest:.3g}",
            )
            for t in found.tensors
        ]
        table(("tensor", "", *numbers), rows, right=numbers)
    else:
        shown = ("distance", "cosine", "parameters")
        by_layer = [
            (x.name, heat(x.distance), f"{x.distance:.3%}", f"{x.cosine:.4f}", f"{x.parameters:,}")
            for x in found.layers
        ]
        table(("layer", "", *shown), by_layer, right=shown)
    _say(f"all {count}: distance {found.distance:.3%}, cosine {found.cosine:.4f}")


def plan(report: Any, *, tensors: bool, coefficients: bool = False) -> None:
    """Print what a step would do; every tensor, and the options of every kind of tensor, if that is wanted."""
    done, rest = ("factored", "compared") if report.method == "extract_lora" else ("merged", "copied")
    done = "estimated" if report.method.startswith("estimate ") else done
    touched = sum(1 for row in report.tensors if row["action"] not in ("copy", "compare"))
    _facts(
        [
            ("step", report.step),
            ("method", report.method if touched else None),
            ("models", ", ".join(report.models)),
            ("base", report.base),
            ("tensors", f"{len(report.tensors):,}: {touched:,} {done}, {len(report.tensors) - touched:,} {rest}"),
            ("roles", ", ".join(f"{n:,} {role}" for role, n in report.roles.items())),
            ("reads", f"{size(report.bytes_read)}, {report.passes} pass{'es' if report.passes > 1 else ''} at most"),
            ("writes", size(report.bytes_written)),
            ("memory", f"{size(report.peak_bytes)} at most"),
            ("free disk", size(report.free_bytes) if report.free_bytes is not None else None),
            ("time", f"about {report.seconds:.1f} s"),
        ]
    )
    for name, label, other in report.renamed[: None if tensors else 5]:
        _say(f"matched: {name} with {other} of {label}")
    if not tensors and len(report.renamed) > 5:
        _say(f"matched: {len(report.renamed) - 5} more have other names; --tensors lists them")
    tables(report.tables)
    _notes(report.notes)
    if tensors:
        rows = [(row["name"], _shape(row["shape"]), row["dtype"], row["role"], row["action"]) for row in report.tensors]
        table(("tensor", "shape", "dtype", "role", "action"), rows)
    if coefficients:
        _coefficients(report)


def _coefficients(report: Any) -> None:
    """Print the options tensor by tensor, with one row for those of one depth, role and class of layer that have the same ones."""
    groups: dict[tuple[Any, ...], list[str]] = {}
    for row in report.tensors:
        options = tuple((name, _option(value)) for name, value in row.get("options", {}).items())
        groups.setdefault((row.get("depth"), row["role"], row.get("layer") or "", row["action"], options), []).append(
            row["name"]
        )
    columns = list(dict.fromkeys(name for *_, options in groups for name, _ in options))
    rows = []
    for (depth, role, layer, action, options), names in groups.items():
        place = "" if depth is None else f"{depth:.3f}"
        rows.append((_and_more(names), place, role, layer, action, *(dict(options).get(name, "") for name in columns)))
    unknown = {"layer": 3, "depth": 1}
    left_out = [at for at in unknown.values() if not any(row[at] for row in rows)]
    headings = ("tensors", "depth", "role", "layer", "action", *columns)
    table(
        [heading for at, heading in enumerate(headings) if at not in left_out],
        [[cell for at, cell in enumerate(row) if at not in left_out] for row in rows],
    )


def _and_more(names: Sequence[str]) -> str:
    """Return the first name, and how many others there are."""
    return names[0] + (f" and {len(names) - 1:,} more" if len(names) > 1 else "")


def _option(value: Any) -> str:
    """Return the value of an option as text: one for each model, if they have values of their own."""
    return ", ".join(_written(each) for each in value) if isinstance(value, list | tuple) else _written(value)


def composition(report: Any) -> None:
    """Print what a composition of graphs would make.

    Args:
        report: A `graftwork.api.CompositionReport`.
    """
    counts = report.parameters
    parts = [f"{counts[word]:,} {word}" for word in ("trained", "frozen", "new") if counts[word]]
    _facts(
        [
            ("step", report.step if report.step == report.verb else f"{report.step}: {report.verb}"),
            ("inputs", ", ".join(_port(port) for port in report.inputs)),
            ("outputs", ", ".join(_port(port) for port in report.outputs)),
            ("parameters", f"{counts['total']:,}" + (f" ({', '.join(parts)})" if parts else "")),
            (
                "size",
                size(report.size_bytes)
                + (f", {size(report.free_bytes)} free" if report.free_bytes is not None else ""),
            ),
            ("to load it", f"Keras needs {report.needs}" if report.needs else "plain Keras"),
        ]
    )
    table(
        ("model", "source", "class", "layers", "parameters", "takes", "gives"),
        [
            (
                member["name"],
                member["source"],
                member["class"],
                f"{member['layers']:,}",
                f"{member['parameters']:,}",
                ", ".join(_port(port) for port in member["inputs"]),
                ", ".join(_port(port) for port in member["outputs"]),
            )
            for member in report.members
        ],
        right=("layers", "parameters"),
    )
    tables(report.tables)
    _notes(report.notes)


def servable(report: Any) -> None:
    """Print what a verb on SavedModels would make.

    Args:
        report: A `graftwork.api.ServableReport`.
    """
    _facts(
        [
            ("step", report.step if report.step == report.verb else f"{report.step}: {report.verb}"),
            ("sources", ", ".join(f"{label} ({path})" for label, path in report.sources)),
            ("makes", FORMATS[report.format].summary if report.format in FORMATS else report.format),
            (
                "size",
                f"about {size(report.size_bytes)}"
                + (f", {size(report.free_bytes)} free" if report.free_bytes is not None else ""),
            ),
        ]
    )
    tables({"signatures": report.signatures, **report.tables})
    _notes(report.notes)


def later(report: Any) -> None:
    """Print what is known of a step that cannot be planned yet.

    Args:
        report: A `graftwork.api.reports.LaterReport`.
    """
    _facts(
        [
            ("step", report.step if report.step == report.verb else f"{report.step}: {report.verb}"),
            ("models", ", ".join(report.models)),
            ("planned", f"after {report.waits_for} is made"),
            ("free disk", size(report.free_bytes) if report.free_bytes is not None else None),
        ]
    )
    _notes(report.notes)


def report(found: Any, *, tensors: bool = False, coefficients: bool = False) -> None:
    """Print what a step would do, whatever kind of step it is."""
    if hasattr(found, "members"):
        composition(found)
    elif hasattr(found, "signatures"):
        servable(found)
    elif hasattr(found, "waits_for"):
        later(found)
    else:
        plan(found, tensors=tensors, coefficients=coefficients)


def tables(
    found: Mapping[str, Sequence[Mapping[str, Any]]], most: int | None = None, file: TextIO | None = None
) -> None:
    """Print what was decided.

    Args:
        found: Rows by what they are about.
        most: How many rows of each are enough.
        file: Where to, by default standard output.
    """
    for name, rows in found.items():
        if rows:
            print(f"\n{name}", file=file)
            columns = list(dict.fromkeys(key for row in rows for key in row))
            table(columns, [[_entry(key, row.get(key)) for key in columns] for row in rows[:most]], file=file)
            if most is not None and len(rows) > most:
                print(f"… and {len(rows) - most:,} more; --dry-run lists them all", file=file)


def _entry(column: str, value: Any) -> str:
    """Return an entry of a table of decisions; shapes are written as everywhere."""
    if column == "shape" and isinstance(value, list | tuple):
        return "×".join("?" if size is None else str(size) for size in value) or "scalar"
    return _cell(value)


def _port(port: Mapping[str, Any]) -> str:
    sizes = ", ".join(str(n) for n in port["shape"])
    return f"{port['name']} ({sizes}{',' if len(port['shape']) == 1 else ''}) {port['dtype']}"


def _cell(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_cell, value))
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def verification(found: "Verification") -> None:
    """Print whether a file is sound."""
    loaded = found.loaded
    _facts(
        [
            ("file", found.path),
            ("format", found.format),
            ("tensors", f"{found.tensors:,}, " + ("all finite" if not found.nonfinite else "not all finite")),
            (
                "loads",
                f"{loaded['class']} {loaded['name']!r}, {loaded['parameters']:,} parameters, "
                f"{', '.join(loaded['inputs'])} → {', '.join(loaded['outputs'])} (Keras {loaded['keras']})"
                if loaded
                else None,
            ),
            ("made by", _made_by(found.provenance)),
        ]
    )
    _notes(found.notes)
    for name, count in found.nonfinite.items():
        _say(f"wrong: tensor {name} holds {count:,} value{'s' * (count != 1)} of NaN or infinity")
    if found.load_error:
        _say(f"wrong: {found.load_error}")
    _say("sound" if found.sound else "not sound")


def extraction(found: "Extraction", *, tensors: bool) -> None:
    """Print how much of a fine-tune is in its adapter."""
    kept = [row.energy for row in found.tensors]
    worst = min(found.tensors, key=lambda row: row.energy)
    _facts(
        [
            ("adapter", found.path),
            ("size", size(found.size_bytes)),
            ("factors", f"{len(found.tensors):,} tensors of rank {found.rank} or less"),
            ("energy kept", f"{sum(kept) / len(kept):.1%} on average, {worst.energy:.1%} of {worst.name}"),
            ("saved whole", f"{sum(row.saved for row in found.rest):,} tensors that differ"),
            ("left out", f"{sum(not row.saved for row in found.rest):,} tensors that differ"),
            ("unchanged", f"{found.unchanged:,} tensors"),
        ]
    )
    if tensors:
        rows = [(row.name, str(row.rank), f"{row.error:.2e}", f"{row.energy:.2%}") for row in found.tensors]
        table(("tensor", "rank", "error", "energy"), rows, right=("rank", "error", "energy"))
        others = [
            (row.name, "whole" if row.saved else "left out", "" if row.difference is None else f"{row.difference:.2e}")
            for row in found.rest
        ]
        if others:
            table(("other tensor", "is", "differs by"), others, right=("differs by",))


def evaluation(found: "Evaluation", *, per_class: bool = False) -> None:
    """Print how good models are, with a star at the best of each column.

    Args:
        found: The evaluation.
        per_class: Whether to print a table of classes for each column of labels as well.
    """
    _facts([("data", f"{found.data}: {found.samples:,} samples")])
    models = found.models
    timed = [model.latency for model in models if model.latency is not None]
    columns = {
        "parameters": _least([model.parameters for model in models], "{:,}".format),
        "size": _least([model.size_bytes for model in models], size),
    }
    if timed:
        single = [model.latency.single_ms if model.latency is not None else None for model in models]
        batches = [model.latency.batch_ms if model.latency is not None else None for model in models]
        columns["ms for 1"] = _least(single, "{:.2f}".format)
        if len({latency.batch for latency in timed}) == 1:
            columns[f"ms for {timed[0].batch}"] = _least(batches, "{:.2f}".format)
        else:
            columns["ms for"] = [f"{latency.batch_ms:.2f} for {latency.batch}" for latency in timed]
    _say("")
    rows = zip((model.name for model in models), *columns.values(), strict=True)
    table(["model", *columns], list(rows), right=list(columns))
    for verdict in found.verdicts:
        _verdict(verdict, per_class=per_class)
    if timed:
        _say(f"\ntimes: {timed[0].how}")
    _notes(found.notes)


def _verdict(verdict: "Verdict", *, per_class: bool) -> None:
    _say(f"\n{verdict.labels} ({len(verdict.names):,} {verdict.task})")
    figures = list(next(iter(verdict.figures.values())).metrics)
    best = {figure: verdict.best(figure) for figure in figures}
    rows = [
        [name, *(_figure(row.metrics[figure], star=name in best[figure]) for figure in figures)]
        for name, row in verdict.figures.items()
    ]
    table(["model", *(figure.replace("_", " ") for figure in figures)], rows)
    for name, row in verdict.figures.items():
        for figure, why in row.reasons.items():
            _say(f"{name}: no {figure.replace('_', ' ')} ({why})")
    if verdict.agreement:
        told = list(verdict.agreement[0].figures)
        _say("")
        table(
            ["", "and", *told],
            [[pair.a, pair.b, *(_figure(pair.figures[figure]) for figure in told)] for pair in verdict.agreement],
        )
    if per_class and verdict.task != "numbers":
        _classes(verdict)


def _classes(verdict: "Verdict") -> None:
    """Print each class: all that is known of it for one model, F1 for several."""
    found = {name: row.per_class for name, row in verdict.figures.items() if row.per_class}
    if not found:
        return
    support = [f"{row.support:,.6g}" for row in next(iter(found.values()))]
    if len(found) == 1:
        columns = ["precision", "recall", "f1", "auc"]
        cells = [[_figure(getattr(row, figure)) for figure in columns] for row in next(iter(found.values()))]
    else:
        columns = [f"f1 of {name}" for name in found]
        cells = [[_figure(row.f1) for row in each] for each in zip(*found.values(), strict=True)]
    _say("")
    table(
        ["class" if verdict.task == "classes" else "label", *columns, "support"],
        [[name, *cell, count] for name, cell, count in zip(verdict.names, cells, support, strict=True)],
        right=("support",),
    )


def _figure(value: float | None, *, star: bool = False) -> str:
    if value is None:
        return "–"
    return (f"{value:.4f}" if 0.001 <= abs(value) < 1000 or value == 0 else f"{value:.3e}") + ("*" if star else "")


def _least(values: Sequence[float | None], written: Callable[[Any], str]) -> list[str]:
    """Return numbers of which less is better as texts, with a star at the least."""
    known = [value for value in values if value is not None]
    best = min(known) if len(set(known)) > 1 else None
    return ["–" if value is None else written(value) + ("*" if value == best else "") for value in values]


def method_list(methods: "Mapping[str, type[MergeMethod]]") -> None:
    """Print every method with its first line."""
    rows = []
    for name, method_ in methods.items():
        least, most = method_.models
        count = str(least) if least == most else f"{least}+" if most is None else f"{least} to {most}"
        rows.append((name, count, method_.base.value, _prose(method_)[0]))
    table(("method", "models", "base", "what it does"), rows)


def method(method_: "type[MergeMethod]") -> None:
    """Print one method: what it does and its formula, its options, where it comes from."""
    from graftwork.methods.options import option_rows

    first, *rest = "\n".join(_prose(method_)).split("\n\n")
    _say(filled(f"{method_.name}: {first}") + "\n")
    for part in rest:
        _say((part if part.startswith(" ") else filled(part)) + "\n")
    rows = [
        (
            f"  {row.name}",
            _written(row.default),
            row.type + (", for all or per model" if row.per_model else ""),
            row.doc,
        )
        for row in option_rows(method_)
    ]
    table(("  option", "default", "takes", "what it is"), rows)
    paragraph(f"Source: {method_.reference}")


def _prose(method_: "type[MergeMethod]") -> list[str]:
    """Return a method's docstring for people who read it in a terminal: without its options, and without markup."""
    text = textwrap.dedent("    " + (method_.__doc__ or "").strip()).partition("\nAttributes:")[0].strip()
    return text.replace("\n::\n", "").replace("``", "`").splitlines()


def _written(value: Any) -> str:
    """Return a default as recipes write it."""
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def method_as_dict(method_: "type[MergeMethod]") -> dict[str, Any]:
    """Return one method for machines."""
    from graftwork.methods.options import json_schema

    return {
        "name": method_.name,
        "summary": _prose(method_)[0],
        "reference": method_.reference,
        "base": method_.base.value,
        "models": list(method_.models),
        "options": json_schema(method_)["properties"],
    }
