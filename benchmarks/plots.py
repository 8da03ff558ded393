"""Plots of figures, as SVG files beside their tables."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator


def bars(file: Path, labels: Sequence[str], series: dict[str, Sequence[float]], what: str) -> None:
    """Draw a group of horizontal bars per label, on a logarithmic axis."""
    figure = Figure(figsize=(8, 1 + 0.35 * len(labels)), layout="constrained")
    axes = figure.subplots()
    height = 0.8 / len(series)
    for k, (name, values) in enumerate(series.items()):
        axes.barh([i + k * height for i in range(len(labels))], values, height, label=name)
    axes.set_yticks([i + 0.4 - height / 2 for i in range(len(labels))], labels)
    axes.invert_yaxis()
    axes.set_xscale("log")
    _plain(axes.xaxis)
    axes.set_xlabel(what)
    axes.legend()
    figure.savefig(file, metadata={"Date": None})


def lines(file: Path, panels: dict[str, dict[str, Sequence[tuple[float, float]]]], what: str) -> None:
    """Draw one panel per entry, both axes logarithmic: a line through the points of each of its series."""
    figure = Figure(figsize=(5 * len(panels), 4), layout="constrained")
    for axes, (title, series) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for name, points in series.items():
            axes.plot(*zip(*points, strict=True), marker="o", label=name)
        axes.set_xscale("log")
        axes.set_yscale("log")
        _plain(axes.xaxis, sorted({x for points in series.values() for x, _ in points}))
        _plain(axes.yaxis)
        axes.set_xlabel(title)
        axes.set_ylabel(what)
        axes.legend()
    figure.savefig(file, metadata={"Date": None})


def _plain(axis: Axis, ticks: Sequence[float] = ()) -> None:
    """Label a logarithmic axis with plain numbers, at `ticks` or at 1, 2 and 5 of each decade."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    if ticks:
        axis.set_ticks(ticks)
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FormatStrFormatter("%g"))
