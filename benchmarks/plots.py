"""Plots of figures, as SVG files beside their tables."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure


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
        axes.set_xlabel(title)
        axes.set_ylabel(what)
        axes.legend()
    figure.savefig(file, metadata={"Date": None})
