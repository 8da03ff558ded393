"""What a case is, and the registry that each format fills."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

Build = Callable[[Path], Path]
"""Makes the file below an empty directory and returns its path; nothing else may change when it is opened."""


class Outcome(StrEnum):
    """What opening and reading a file may end in."""

    REFUSED = "refused"  # an error of ours that names the file
    HARMLESS = "harmless"  # odd, but it must open and give the right values
    TOLERATED = "tolerated"  # either: the file is wrong, but not in a way a reader has to notice


@dataclass(frozen=True, kw_only=True)
class Case:
    """One file.

    Attributes:
        format: Name of the corpus it belongs to.
        name: What is wrong with it.
        build: Makes it.
        outcome: What must happen.
        mentions: A regular expression that the message of a refusal must contain, beside the file's name.
        values: What a harmless file must hold, whatever the tensors are called.
    """

    format: str
    name: str
    build: Build
    outcome: Outcome = Outcome.REFUSED
    mentions: str = ""
    values: Mapping[str, np.ndarray[Any, Any]] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The name pytest shows."""
        return f"{self.format}-{self.name}"


class Corpus:
    """The cases of one format, by name."""

    def __init__(self, format: str, values: Mapping[str, np.ndarray[Any, Any]]) -> None:
        self.format, self.values = format, values
        self.cases: dict[str, Case] = {}

    def add(
        self,
        name: str,
        build: Build,
        outcome: Outcome = Outcome.REFUSED,
        mentions: str = "",
        values: Mapping[str, np.ndarray[Any, Any]] | None = None,
    ) -> None:
        """Register a case; a name that is taken is a mistake."""
        if name in self.cases:
            raise ValueError(f"{self.format} has two cases called {name!r}")
        self.cases[name] = Case(
            format=self.format,
            name=name,
            build=build,
            outcome=outcome,
            mentions=mentions,
            values=self.values if values is None else values,
        )

    def _decorator(self, outcome: Outcome, mentions: str) -> Callable[[Build], Build]:
        def keep(build: Build) -> Build:
            self.add(build.__name__.strip("_"), build, outcome, mentions)
            return build

        return keep

    def refused(self, mentions: str = "") -> Callable[[Build], Build]:
        """Register a builder of a file that must be refused."""
        return self._decorator(Outcome.REFUSED, mentions)

    def harmless(self) -> Callable[[Build], Build]:
        """Register a builder of a file that must open and read right."""
        return self._decorator(Outcome.HARMLESS, "")

    def tolerated(self) -> Callable[[Build], Build]:
        """Register a builder of a file that may do either."""
        return self._decorator(Outcome.TOLERATED, "")
