"""What an evaluation found, drawn: confusion matrices and reliability curves, as SVG or PNG, by matplotlib (extra ``plots``).

The same evaluation gives the same bytes: SVG has no date, and its identifiers come from a fixed salt.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from graftwork.errors import OptionError, OutputError, StoreError, UnknownNameError
from graftwork.stores.base import Format
from graftwork.stores.staged import Staged, check_target

if TYPE_CHECKING:
    from graftwork.training.evaluation import Evaluation, Verdict

MOST_WRITTEN = 20
"""Classes up to which every cell of a confusion matrix says its number, and every class its name."""

ENDINGS = {".svg": "svg", ".png": "png"}


def _not_read(path: Path) -> NoReturn:
    raise StoreError(f"{path} is a plot, which graftwork writes and does not read")


def _format(target: Path) -> Format:
    """Return what has to be known of plots to replace one."""
    ending = target.suffix.lower()
    if ending not in ENDINGS:
        raise OutputError(f"the target {target} must end in {' or '.join(ENDINGS)}, for that is what a plot is")
    return Format(
        name=ENDINGS[ending],
        summary="a plot",
        suffixes=(ending,),
        directory=False,
        recognise=lambda path: path.is_file() and path.name.lower().endswith(ending),
        open=_not_read,
        create=None,
    )


def confusion(
    found: "Evaluation",
    target: Path,
    model: str | None = None,
    labels: str | None = None,
    *,
    overwrite: bool = False,
    report: list[str] | None = None,
) -> Path:
    """Draw confusion matrices side by side and return their path: in each a row for each class, in shares of its samples.

    Args:
        found: The evaluation.
        target: Where to, ending in ``.svg`` or ``.png``.
        model: Which model, by default each.
        labels: By which column of labels, by default each that has classes.
        overwrite: Whether a plot that is there may be replaced.
        report: A list to which what the user should know is added, one sentence each.

    Raises:
        OutputError: If the target exists or cannot be written.
        OptionError: If there is no such matrix, or matplotlib is not installed.
        UnknownNameError: If nothing is called so.
    """
    panels = [
        (verdict, name)
        for verdict in _verdicts(found, labels, ("classes",), "a confusion matrix")
        for name in verdict.figures
    ]
    if model is not None and model not in (known := [name for _, name in panels]):
        raise UnknownNameError("model that was evaluated", model, dict.fromkeys(known))
    panels = [(verdict, name) for verdict, name in panels if model in (None, name)]
    if all(verdict.figures[name].confusion is None for verdict, name in panels):
        verdict, name = panels[0]
        raise OptionError(
            f"{name} has no confusion matrix for {verdict.labels}: too many classes, or no figures at all"
        )

    def draw(figure: Any) -> None:
        side = min(12.0, 2.5 + 0.45 * max(len(verdict.names) for verdict, _ in panels))
        figure.set_layout_engine("compressed")  # made for axes whose sides are in proportion
        every = _panels(figure, len(panels), side, side, more=1)
        images = [_matrix(axes, verdict, name) for axes, (verdict, name) in zip(every, panels, strict=True)]
        figure.colorbar(next(image for image in images if image is not None), ax=every, label="share of the class")

    return _write(draw, target, report, overwrite=overwrite)


def _matrix(axes: Any, verdict: "Verdict", name: str) -> Any:
    """Draw the confusion matrix of one model and return its image; None where there is none, which is said in its place."""
    import numpy as np

    axes.set_title(f"{name}: {verdict.labels}")
    matrix = verdict.figures[name].confusion
    if matrix is None:
        axes.text(0.5, 0.5, "no confusion matrix", ha="center", va="center", transform=axes.transAxes)
        axes.set_axis_off()
        return None
    counts = np.array(matrix)
    whole = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, whole, out=np.zeros_like(counts), where=whole > 0)
    size = len(verdict.names)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="said", ylabel="is")
    if size <= MOST_WRITTEN:
        turned = max(map(len, verdict.names)) > 3
        axes.set_xticks(range(size), verdict.names, rotation=45 if turned else 0, ha="right" if turned else "center")
        axes.set_yticks(range(size), verdict.names)
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, f"{count:,.4g}", ha="center", va="center", color=colour, fontsize=8)
    return image


def reliability(
    found: "Evaluation",
    target: Path,
    labels: str | None = None,
    *,
    overwrite: bool = False,
    report: list[str] | None = None,
) -> Path:
    """Draw how often each model is right for how sure it is, and return the path: a panel for each column of labels.

    Args:
        found: The evaluation.
        target: Where to, ending in ``.svg`` or ``.png``.
        labels: By which column of labels, by default each that has classes or independent labels.
        overwrite: Whether a plot that is there may be replaced.
        report: A list to which what the user should know is added, one sentence each.

    Raises:
        OutputError: If the target exists or cannot be written.
        OptionError: If there are no such curves, or matplotlib is not installed.
        UnknownNameError: If nothing is called so.
    """
    verdicts = _verdicts(found, labels, ("classes", "labels"), "a reliability curve")

    def draw(figure: Any) -> None:
        for axes, verdict in zip(_panels(figure, len(verdicts), 6.0, 5.5), verdicts, strict=True):
            _curves(axes, verdict)

    return _write(draw, target, report, overwrite=overwrite)


def _curves(axes: Any, verdict: "Verdict") -> None:
    """Draw the reliability curve of each model by one column of labels."""
    axes.plot([0, 1], [0, 1], color="grey", linestyle="--", label="exactly as sure as right")
    for name, row in verdict.figures.items():
        error = row.metrics.get("ece")
        told = f"{name} (ECE {error:.3f})" if error is not None else name
        axes.plot(
            [each.confidence for each in row.reliability],
            [each.accuracy for each in row.reliability],
            marker="o",
            label=told,
        )
    right = "share that is right" if verdict.task == "classes" else "share that is there"
    axes.set(title=verdict.labels, xlabel="confidence", ylabel=right, xlim=(0, 1), ylim=(0, 1))
    axes.legend()


def _panels(figure: Any, count: int, wide: float, high: float, more: float = 0.0) -> list[Any]:
    """Return axes in rows of a figure that is made as large as they need it, with so `more` inches beside them."""
    columns = math.ceil(math.sqrt(count))
    rows = -(-count // columns)
    figure.set_size_inches(columns * wide + more, rows * high)
    return [figure.add_subplot(rows, columns, place) for place in range(1, count + 1)]


def _verdicts(found: "Evaluation", labels: str | None, tasks: Sequence[str], what: str) -> "list[Verdict]":
    by_column = {verdict.labels: verdict for verdict in found.verdicts}
    if labels is not None and labels not in by_column:
        raise UnknownNameError("column of labels that was evaluated", labels, by_column)
    fitting = [verdict for column, verdict in by_column.items() if verdict.task in tasks and labels in (None, column)]
    if not fitting:
        raise OptionError(
            f"there is no {what.partition(' ')[2]} of {labels or 'this evaluation'}, which is about numbers or labels"
        )
    return fitting


def _write(draw: Callable[[Any], None], target: Path, report: list[str] | None, *, overwrite: bool) -> Path:
    """Draw into a file that appears complete or not at all."""
    row = _format(target)
    check_target(target, row, (), overwrite=overwrite)
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise OptionError("plots need matplotlib; install graftwork[plots]") from error
    with mpl.rc_context({"svg.hashsalt": "graftwork", "svg.fonttype": "none"}):
        figure = Figure(layout="constrained")
        draw(figure)
        with Staged(target, row, overwrite=overwrite) as staged:
            try:
                figure.savefig(
                    staged.path, format=row.name, dpi=150, metadata={"Date": None} if row.name == "svg" else {}
                )
            except OSError as error:
                raise OutputError(f"{target} cannot be written: {error.strerror or error}") from error
            staged.commit()
    if report is not None:
        report += staged.notes
    return target
