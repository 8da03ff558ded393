"""What an attempt to match two models finds: pairs of layers, differences, notes."""

from collections.abc import Iterable

from graftwork.architecture.compare import Difference

MAX_DIFFERENCES = 50
"""No more are collected; the first ones tell."""


class Findings:
    """Collects what is found.

    Attributes:
        layers: Chain of layer names in A to the chain in B, for every matched layer.
        differences: Why the two do not compute the same function; no more than one above `MAX_DIFFERENCES`.
    """

    def __init__(self) -> None:
        self.layers: dict[str, str] = {}
        self.differences: list[Difference] = []
        self._notes: dict[str, list[str]] = {}

    def differ(self, found: Iterable[Difference]) -> None:
        """Collect differences, unless there are enough."""
        for difference in found:
            if len(self.differences) <= MAX_DIFFERENCES:
                self.differences.append(difference)

    def note(self, kind: str, where: str = "") -> None:
        """Collect something to be told; of one kind, where it is so is listed."""
        self._notes.setdefault(kind, []).extend([where] if where else [])

    def told(self) -> list[str]:
        """Return the notes as sentences, layers of other names first."""
        told = []
        renamed = [(a, b) for a, b in self.layers.items() if a.rpartition("/")[2] != b.rpartition("/")[2]]
        if renamed:
            shown = ", ".join(f"{a!r} is {b!r}" for a, b in renamed[:3]) + (", …" if len(renamed) > 3 else "")
            count = "1 layer has another name" if len(renamed) == 1 else f"{len(renamed):,} layers have other names"
            told.append(f"{count}, matched by structure: {shown}")
        for kind, where in self._notes.items():
            places = list(dict.fromkeys(where))
            shown = ", ".join(places[:3]) + (f" and {len(places) - 3:,} more" if len(places) > 3 else "")
            told.append(f"{kind}: {shown}" if shown else kind)
        return told


def join(path: str, name: str) -> str:
    """Return the chain of layer names that leads to a layer of the model or wrapper that `path` leads to."""
    return f"{path}/{name}" if path else name
