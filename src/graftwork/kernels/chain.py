"""A reduction that needs to know what another one found."""

from collections.abc import Callable, Sequence
from typing import Any


class Chain:
    """Two reductions, one after the other; see `graftwork.methods.base.Reduction`. `result` returns both results.

    Args:
        first: The first, which declares its `passes`.
        then: Makes the second, of one pass, from the first's result.
    """

    def __init__(self, first: Any, then: Callable[[Any], Any]) -> None:
        self.passes: int = first.passes + 1
        self._now, self._then = first, then
        self._results: list[Any] = []

    def local(self) -> Any:
        """Return what one thread needs in one pass of the reduction whose turn it is."""
        return self._now.local()

    def observe(self, block: Any, local: Any) -> None:
        """Take one block into account."""
        self._now.observe(block, local)

    def end_pass(self, locals_: Sequence[Any]) -> bool:
        """Take in what all threads saw; return whether another pass is needed."""
        if self._now.end_pass(locals_):
            return True
        self._results.append(self._now.result())
        if len(self._results) == 1:
            self._now = self._then(self._results[0])
            return True
        return False

    def result(self) -> tuple[Any, Any]:
        """Return both results."""
        first, second = self._results
        return first, second
