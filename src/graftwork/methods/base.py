"""What a merge method is: options declared as fields, an optional reduction, and a pure combine.

A method instance holds the options *of one tensor*: one value where the option is the same for all models, a tuple with one value
per model where it is not (`PerModel`). Recipes may give options by model and by tensor name; `options.resolve` turns those into
instances, so that no method ever looks at a name.

The work on a tensor is cut into blocks. First the method's `Reduction` (if any) sees every block, as often as it asks to; then
`combine` writes every block. Blocks come from several threads in any order, so

- `combine` and `observe` touch nothing but their arguments;
- what a reduction counts (integers) goes to accumulators of one thread each, whose order does not matter;
- what a reduction sums (floats) is summed in chunks of `CHUNK` elements whose places do not depend on the blocks, and added up in the
  order of places. That makes results the same for every number of threads and every block size.

Some methods have to see more of a tensor at once than a run of elements, see `Granularity`. What they see in one piece are *units*: all
weights that feed one output of a layer (a neuron, a filter), laid out one unit after the other. In Keras's layout that is the tensor
with its last axis first, in PyTorch's (Hugging Face) the tensor as it is; either way a matrix (units, weights of one unit). A tensor of
fewer than two axes is one unit.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from graftwork.errors import OptionError, UnknownNameError

Floats = NDArray[Any]
"""An array of float32, or of float64 where a source is float64."""

CHUNK = 4096
"""Blocks begin at multiples of this many elements, and float sums are kept per chunk."""

T = TypeVar("T")
PerModel: TypeAlias = T | tuple[T, ...]
"""The type of an option that may differ between models: one value, or one per model in their order."""


class Base(Enum):
    """Whether a method works on differences from a base model."""

    NONE = "none"
    OPTIONAL = "optional"
    REQUIRED = "required"


Granularity: TypeAlias = Literal["block", "unit", "tensor"]
"""What a method has to see in one piece: any run of elements, whole units, or the whole tensor."""


def unit_length(shape: tuple[int, ...], axis: int) -> int:
    """Return how many elements a unit of a tensor has whose units are counted by `axis`, 0 or -1."""
    size = math.prod(shape)
    return size // shape[axis] if len(shape) > 1 and size else size


def block_length(granularity: Granularity, unit: int, size: int, wanted: int) -> int:
    """Return the length of the blocks of a tensor: about `wanted` elements, at least as many as have to be seen in one piece.

    Args:
        granularity: What has to be seen.
        unit: Elements of a unit.
        size: Elements of the tensor.
        wanted: A length that suits the cache.
    """
    if granularity == "tensor":
        return max(size, 1)
    if granularity == "unit":
        return max(wanted // max(unit, 1), 1) * max(unit, 1)
    return max(CHUNK, -(-wanted // CHUNK) * CHUNK)


@dataclass(slots=True)
class Block:
    """A run of elements of one tensor, of all models.

    Attributes:
        models: Shape (n, b), each row contiguous. `combine` may overwrite it, `observe` may not.
        base: Shape (b,), or None where the merge has no base.
        out: Shape (b,), for `combine` to fill.
        scratch: Shape (rows, b) with the method's `scratch_rows`, contents undefined.
        start: Position of the first element in the tensor: flat and row-major, a multiple of `CHUNK`; for methods that see units, in
            the order of units, a multiple of `unit`.
        offset: Position of the tensor's first element in what the reduction is over: 0 for one tensor; for a reduction over
            the model, the (aligned) sizes of the tensors before.
        keys: Shape (n,), uint64: for each model the key of its random stream for this tensor (see `graftwork.rng`).
        shape: The tensor's shape as its file has it.
        unit: Elements of one unit, of which b is a multiple; 0 for a method that sees any run of elements.
        companions: For a method with `companion`: what else is known of each model's tensor, one array per model; shape (b,) where
            companions are as large as the tensors, else the companion's own.
    """

    models: Floats
    base: Floats | None
    out: Floats
    scratch: Floats
    start: int
    offset: int
    keys: NDArray[np.uint64]
    shape: tuple[int, ...] = ()
    unit: int = 0
    companions: tuple[Floats, ...] = ()


class Reduction(Protocol):
    """What must be known of a whole tensor (or model) before any element can be written.

    One that begins with a sample has a number `stride`: the pass to come needs only the chunks whose number is a multiple of it.
    More may be shown to it, and another pass follows.
    """

    def local(self) -> Any:
        """Return fresh accumulators for one thread and one pass."""
        ...

    def observe(self, block: Block, local: Any) -> None:
        """Take one block into account. Called from any thread, once per block and pass."""
        ...

    def end_pass(self, locals_: Sequence[Any]) -> bool:
        """Take in what all threads saw; return whether another pass over all blocks is needed."""
        ...

    def result(self) -> Any:
        """Return what `combine` gets, once no further pass is needed."""
        ...


class MergeMethod(BaseModel):
    """A merge method with its options; see the module for how it is run.

    Class attributes:
        name: What recipes call it.
        reference: Address of the paper or text that defines it.
        base: Whether it works on differences from a base model.
        models: Least and greatest number of models (without the base); None for no limit.
        scratch_rows: Work arrays of a block's length that `combine` needs in `Block.scratch`.
        companion: The option, one path per model, that names a file with more about each model, tensor by tensor under the same
            names (squared gradients, Gram matrices); "" for a method that needs none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False, defer_build=True)

    name: ClassVar[str]
    reference: ClassVar[str]
    base: ClassVar[Base]
    models: ClassVar[tuple[int, int | None]]
    scratch_rows: ClassVar[int]
    companion: ClassVar[str] = ""

    def check(self, n_models: int, has_base: bool | None = None) -> None:
        """Refuse a number of models, a base or a lack of it, and options that do not fit them; called before weights are read.

        Args:
            n_models: Number of models, without the base.
            has_base: Whether the merge has a base; None if that is not known (and so not checked).

        Raises:
            OptionError: If the method cannot merge these.
        """
        least, most = self.models
        if n_models < least or (most is not None and n_models > most):
            wanted = (
                f"exactly {least}" if least == most else f"at least {least}" if most is None else f"{least} to {most}"
            )
            raise OptionError(
                f"{self.name} merges {wanted} model{'s' * (not wanted.endswith(' 1'))}, but there are {n_models}"
            )
        if has_base is False and self.base is Base.REQUIRED:
            raise OptionError(
                f"{self.name} merges differences from a base model; add `base` with their common ancestor"
            )
        if has_base and self.base is Base.NONE:
            raise OptionError(f"{self.name} has no use for a base; leave `base` out, or list it among the models")
        for option, value in self:
            if isinstance(value, tuple) and len(value) != n_models:
                alias = type(self).model_fields[option].alias or option
                raise OptionError(
                    f"option {alias!r} of {self.name} has {len(value)} values, but there are {n_models} models"
                )

    def scope(self) -> Literal["tensor", "model"]:
        """Return what the reduction is over: each tensor by itself, or all tensors of the model together."""
        return "tensor"

    def granularity(self, shape: tuple[int, ...]) -> Granularity:
        """Return what has to be seen in one piece of a tensor of this shape; memory grows with the tensor if that is ``"tensor"``."""
        return "block"

    def companion_shape(self, shape: tuple[int, ...], unit: int) -> tuple[int, ...] | None:
        """Return the shape that a companion of a tensor has, or None for a tensor that needs none.

        The tensor's own where the method sees blocks; (unit, unit) for a matrix over the elements of one unit, where it sees all.

        Args:
            shape: The tensor's shape.
            unit: Elements of one unit of it.
        """
        return shape if self.companion else None

    def without_companion(self, n_models: int) -> "MergeMethod | None":
        """Return the method for a tensor that a model's companion says nothing of; None where that is a mistake."""
        return None

    def working_bytes(self, n_models: int, size: int, unit: int) -> int:
        """Return the memory that the method takes for itself and that grows with the tensor, beside models, base and result.

        Args:
            n_models: Number of models, without the base.
            size: Elements of the tensor.
            unit: Elements of one unit.
        """
        return 0

    def reduction(self, n_models: int, size: int, dtype: np.dtype[Any]) -> Reduction | None:
        """Return a fresh reduction, or None if none is needed.

        Args:
            n_models: Number of models, without the base.
            size: Number of elements that it is over: of the tensor, or of all tensors of the model.
            dtype: What blocks are computed in; the widest, where tensors of a model differ.
        """
        return None

    def statistic_weights(self, n_models: int) -> tuple[float, ...]:
        """Return how much each model counts when running statistics, which are no task vectors, are averaged.

        The models' own weights where the method has such and none is negative, else all alike.
        """
        weights = per_model(getattr(self, "weight", 1.0), n_models)
        if weights.min(initial=0.0) < 0 or not weights.sum() > 0:
            return (1.0,) * n_models
        return tuple(weights.tolist())

    def combine(self, block: Block, reduced: Any) -> None:
        """Fill `block.out`; `reduced` is the reduction's result (None without one)."""
        raise NotImplementedError


METHODS: dict[str, type[MergeMethod]] = {}
"""Every merge method by name."""

M = TypeVar("M", bound=type[MergeMethod])


def merge_method(
    name: str,
    *,
    reference: str,
    base: Base = Base.NONE,
    models: tuple[int, int | None] = (1, None),
    scratch_rows: int = 0,
    companion: str = "",
) -> Callable[[M], M]:
    """Register a class as the merge method `name`; see `MergeMethod` for the arguments."""

    def add(cls: M) -> M:
        if name in METHODS:
            raise ValueError(f"merge method {name!r} is registered twice")
        cls.name, cls.reference, cls.base, cls.models, cls.scratch_rows = name, reference, base, models, scratch_rows
        cls.companion = companion
        METHODS[name] = cls
        return cls

    return add


def get(name: str) -> type[MergeMethod]:
    """Return the merge method called `name`.

    Raises:
        UnknownNameError: If there is none.
    """
    if name not in METHODS:
        raise UnknownNameError("merge method", name, METHODS)
    return METHODS[name]


def per_model(value: PerModel[float], n_models: int) -> Floats:
    """Return an option as a vector of `n_models` float64."""
    return np.array(np.broadcast_to(np.asarray(value, np.float64), (n_models,)))
