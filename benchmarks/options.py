"""What the user of `python -m benchmarks` asked for."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Options:
    """What every benchmark is given; each looks at what concerns it.

    Attributes:
        folder: Where models are made.
        results: Where tables and plots go.
        rounds: How often each case is timed.
        methods: Merge methods to measure; empty for the benchmark's own choice.
        dtypes: Dtypes to measure; empty for the benchmark's own choice.
        size_mb: Megabytes of one model in float32.
        largest_mb: Megabytes of one model, up to which `scaling` goes.
        apart: By how much of their numbers' spread fine-tunes differ from their base, in `peers`.
        through: `merge` or `run`: which of our commands meets the peer.
    """

    folder: Path
    results: Path
    rounds: int = 5
    methods: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    size_mb: int = 1300
    largest_mb: int = 4000
    apart: float = 0.01
    through: str = "merge"
