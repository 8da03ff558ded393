"""What data tells of a model's weights beside the weights: Fisher information or Gram matrices, in a file with the names of its tensors.

Merge methods with companions read such files (see `graftwork.methods.base`). Finding them out takes the live model, and Keras.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork import provenance
from graftwork.architecture.depth import depths_and_classes
from graftwork.data import Samples, Stream, open_data
from graftwork.data.opening import told
from graftwork.errors import NonFiniteError, OutputError, StoreError
from graftwork.methods.base import unit_length
from graftwork.models import live
from graftwork.stores import FORMATS
from graftwork.stores.base import RAW_DTYPES, Reader
from graftwork.stores.safetensors import SafetensorsReader, SafetensorsWriter
from graftwork.stores.staged import Staged, check_target
from graftwork.tensor import FLOATS, Role, TensorSpec

LINEAR = ("Dense", "EinsumDense", "Conv1D", "Conv2D", "Conv3D")
"""Classes of layers that may have a Gram matrix."""

KERAS_BYTES, KERAS_SECONDS = 700 * 2**20, 8.0
"""What importing TensorFlow and Keras and loading a small model takes."""

Arrays = dict[str, NDArray[np.float32]]
"""An array for each tensor, by its canonical name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """How something is to be estimated.

    Attributes:
        kind: Fisher information (``fisher``) or Gram matrices (``gram``).
        x: Columns of the inputs, where the data does not tell.
        y: The column of labels, where the data does not tell.
        samples: Use the first so many samples; all, if None.
        batch: Samples dealt with at a time.
        labels: See `graftwork.training.fisher`.
        outputs: See `graftwork.training.likelihood`.
        seed: Fixes labels that are drawn.
        max_inputs: Layers of more inputs get no Gram matrix.
    """

    kind: str
    x: Any = None
    y: str | None = None
    samples: int | None = None
    batch: int = 32
    labels: str = "model"
    outputs: str = "auto"
    seed: int = 0
    max_inputs: int = 8192

    def settings(self) -> dict[str, Any]:
        """Return what counts for this kind, as a recipe's step spells it."""
        own = ("labels", "outputs", "seed") if self.kind == "fisher" else ("max_inputs",)
        return {name: getattr(self, name) for name in ("x", "y", "samples", *own)}


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimatePlan:
    """An estimate that nothing in the headers speaks against.

    Attributes:
        model: The open model.
        label: What to call it.
        data: The data.
        said: What the record says of it: how it is described, or what it is called.
        wishes: What is asked for.
        specs: What the file will hold; for Gram matrices at most, since layers are only looked at when they are called.
        custom_objects: Classes and functions of the model that Keras does not know, by name.
    """

    model: Reader
    label: str
    data: Samples | Stream
    said: Any
    wishes: Wishes
    specs: tuple[TensorSpec, ...]
    custom_objects: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sources(self) -> list[Path]:
        """Every file of the model."""
        return [self.model.path, *self.model.header.files]

    @property
    def working_bytes(self) -> int:
        """Memory that the numbers take while they are added up, in float64, beside the live model."""
        return sum(2 * spec.size_bytes for spec in self.specs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What data told of a model.

    Attributes:
        arrays: What was asked for.
        samples: How many samples that is of.
        notes: What the user should know.
    """

    arrays: Arrays
    samples: int
    notes: tuple[str, ...]


def plan_estimate(
    model: Reader,
    label: str,
    data: Any,
    wishes: Wishes,
    root: Path = Path(),
    custom_objects: Mapping[str, Any] | None = None,
) -> EstimatePlan:
    """Return the plan of an estimate.

    Args:
        model: The open model.
        label: What to call it.
        data: Whatever `graftwork.data.open_data` opens.
        wishes: What is asked for.
        root: What paths of data are relative to.
        custom_objects: Classes and functions of the model that Keras does not know, by name.

    Raises:
        DataError: If the data cannot be opened.
        UnknownNameError: If it has no such column.
        StoreError: If the model's file holds no architecture.
    """
    if model.header.config is None or model.header.config_kind == "huggingface":
        raise StoreError(
            f"{model.path.name} holds no Keras model that data could be shown to; give the model's .keras file"
        )
    weights = [s for s in model.specs().values() if s.role is Role.WEIGHT and s.dtype in FLOATS and s.size]
    if wishes.kind == "fisher":
        specs = [TensorSpec(name=s.name, shape=s.shape, dtype="float32", role=Role.WEIGHT) for s in weights]
    else:
        specs = _matrices(model, weights, wishes.max_inputs)
    return EstimatePlan(
        model=model,
        label=label,
        data=open_data(data, root=root, x=wishes.x, y=wishes.y),
        said=Path(data).name if isinstance(data, str | PathLike) else told(data),
        wishes=wishes,
        specs=tuple(specs),
        custom_objects=custom_objects or {},
    )


def check_estimate(plan: EstimatePlan, target: Path, *, overwrite: bool) -> None:
    """Refuse a target that exists, is a source, or cannot hold an estimate.

    Raises:
        OutputError: With the reason.
    """
    if target.suffix != ".safetensors":
        raise OutputError(f"{plan.wishes.kind} is written to a .safetensors file, and {target.name} is none; end it so")
    check_target(target, FORMATS["safetensors"], plan.sources, overwrite=overwrite)


def estimate(plan: EstimatePlan, loadable: Path, progress: Callable[[int], None], like: Any = None) -> Estimate:
    """Return what was asked for.

    Args:
        plan: The plan.
        loadable: The model as a file that Keras loads.
        progress: Told how many samples are dealt with.
        like: A live model whose own classes are used.

    Raises:
        DataError: If the data holds NaN, or labels that are none.
        MismatchError: If the data does not go into the model.
        NonFiniteError: If the model makes NaN or infinity of the data.
        OptionError: If an option makes no sense.
        StoreError: If Keras cannot load the model.
    """
    from graftwork.models.names import names_of

    model = live.load(loadable, like, custom_objects=plan.custom_objects, compiled=False)
    work = _fisher if plan.wishes.kind == "fisher" else _grams
    with np.errstate(over="ignore", invalid="ignore"):  # said below, with the name
        found = work(plan, model, names_of(model), progress)
    for name, array in found.arrays.items():
        if not np.isfinite(array).all():
            raise NonFiniteError(
                f"the {plan.wishes.kind} of {name!r} is not finite: {plan.label} makes NaN or infinity of {plan.data.name}"
            )
    return found


def save_estimate(plan: EstimatePlan, found: Estimate, target: Path, *, overwrite: bool) -> tuple[int, tuple[str, ...]]:
    """Write an estimate, which appears complete or not at all; return the size of the file, and what is to be known of the place.

    Raises:
        OutputError: If it cannot be written, or does not come back as it was written.
    """
    check_estimate(plan, target, overwrite=overwrite)
    arrays = found.arrays
    specs = [TensorSpec(name=k, shape=a.shape, dtype="float32", role=Role.WEIGHT) for k, a in arrays.items()]
    settings = {**plan.wishes.settings(), "model": plan.label, "data": plan.said, "samples": found.samples}
    record = provenance.record(plan.wishes.kind, settings, [(plan.label, plan.model)])
    with Staged(target, FORMATS["safetensors"], overwrite=overwrite) as staged:
        writer = SafetensorsWriter(staged.path, specs, like=plan.model, provenance=record, metadata={})
        try:
            for name, array in arrays.items():
                writer.write(name, 0, np.ascontiguousarray(array, "<f4").reshape(-1))
            writer.finish()
        except OSError as error:
            raise OutputError(f"{target} cannot be written: {error.strerror or error}") from error
        finally:
            writer.close()
        with SafetensorsReader(staged.path) as reader:
            _compare(reader, arrays)
        size = staged.path.stat().st_size
        staged.commit()
    return size, staged.notes


def _fisher(
    plan: EstimatePlan, model: Any, names: Mapping[int, tuple[str, ...]], progress: Callable[[int], None]
) -> Estimate:
    from graftwork.training.fisher import information

    wanted = {spec.name for spec in plan.specs}
    variables = [v for v in model.weights if wanted.intersection(names.get(id(v), ()))]
    missing = wanted.difference(*(names[id(v)] for v in variables))
    if missing:
        raise StoreError(f"Keras loads {plan.label} without its tensor {min(missing)!r}; save the model again")
    wishes = plan.wishes
    found, samples = information(
        model,
        variables,
        plan.data,
        labels=wishes.labels,
        outputs=wishes.outputs,
        samples=wishes.samples,
        batch=wishes.batch,
        seed=wishes.seed,
        progress=progress,
    )
    values = {name: f for v, f in zip(variables, found, strict=True) for name in names[id(v)]}
    notes = []
    silent = sum(1 for spec in plan.specs if not values[spec.name].any())
    if silent:
        notes.append(
            f"{silent} tensors have no Fisher information at all on {plan.data.name}: the outputs do not depend on them"
        )
    arrays = {spec.name: values[spec.name].astype(np.float32) for spec in plan.specs}
    return Estimate(arrays=arrays, samples=samples, notes=tuple(notes))


def _grams(
    plan: EstimatePlan, model: Any, names: Mapping[int, tuple[str, ...]], progress: Callable[[int], None]
) -> Estimate:
    from graftwork.training.gram import grams_of

    wishes = plan.wishes
    found = grams_of(
        model,
        plan.data,
        samples=wishes.samples,
        batch=wishes.batch,
        most_inputs=wishes.max_inputs,
        progress=progress,
    )
    arrays = {
        name: gram.mean.astype(np.float32) for gram in found.grams.values() for name in names.get(id(gram.variable), ())
    }
    known = {name: spec for name, spec in plan.model.specs().items() if name in arrays}
    if len(known) < len(arrays):
        raise StoreError(
            f"Keras loads {plan.label} with a tensor {min(arrays.keys() - known)!r} that the file does not name"
        )
    size = sum(8 * array.size for array in arrays.values())
    without = [
        s.name
        for s in plan.model.specs().values()
        if s.role is Role.WEIGHT and len(s.shape) > 1 and s.name not in arrays
    ]
    notes = [f"{len(arrays)} Gram matrices, which took {size:,} bytes of memory", *found.notes]
    if without:
        shown = ", ".join(map(repr, without[:3])) + f" and {len(without) - 3} more" * (len(without) > 3)
        notes.append(f"{len(without)} matrices have none, and regmean averages them: {shown}")
    return Estimate(arrays={name: arrays[name] for name in known}, samples=found.samples, notes=tuple(notes))


def _matrices(model: Reader, weights: Sequence[TensorSpec], most: int) -> list[TensorSpec]:
    """Return the Gram matrices that a model's layers, by their classes, may have."""
    header = model.header
    _, classes = depths_and_classes(model.specs(), header.architecture, keras2=header.config_kind == "keras2")
    found = []
    for spec in weights:
        unit = unit_length(spec.shape, -1)
        if len(spec.shape) > 1 and spec.name.endswith("kernel") and classes.get(spec.name) in LINEAR and unit <= most:
            found.append(TensorSpec(name=spec.name, shape=(unit, unit), dtype="float32", role=Role.WEIGHT))
    return found


def _compare(reader: Reader, arrays: Mapping[str, NDArray[np.float32]]) -> None:
    for name, array in arrays.items():
        raw = np.empty(array.size, RAW_DTYPES["float32"])
        reader.read_into(name, 0, raw)
        if not np.array_equal(raw, array.reshape(-1)):
            raise OutputError(f"the result was reopened and {name!r} does not hold what was written")
