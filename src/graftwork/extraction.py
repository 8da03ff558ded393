"""A fine-tuned model as a LoRA adapter of its base: the best approximation of each difference by a product of two thin matrices.

::

    D = W_tuned - W_base = U S Vᵀ        the r largest singular values and their vectors
    B = U √S      A = √S Vᵀ              lora_alpha = r, so that W_base + B A is what PEFT computes

By Eckart and Young (1936) no other matrix of rank r is nearer to D. One tensor is in memory at a time, in float64. Where r is a small
part of a large matrix, the singular vectors are sought in a block Krylov space (Musco and Musco 2015,
https://arxiv.org/abs/1504.05477) which grows until it adds less than `TOLERANCE` of the difference's energy; its start is drawn
from the tensor's name, so that the same input gives the same adapter.
"""

import fnmatch
import json
import re
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork import provenance, rng
from graftwork.errors import MismatchError, NonFiniteError, OptionError, OutputError
from graftwork.kernels.convert import decode
from graftwork.pairing import pair
from graftwork.planning import MergeRequest
from graftwork.stores.base import RAW_DTYPES, Reader
from graftwork.stores.lora import ADAPTER, CONFIG, PREFIX, WEIGHTS, keeps_transposed
from graftwork.stores.safetensors import SafetensorsReader, SafetensorsWriter
from graftwork.stores.staged import Staged, check_target
from graftwork.tensor import FLOATS, TensorSpec

EMBEDDINGS = ("*embed*.weight", "*wte.weight", "*wpe.weight", "shared.weight")
"""Names of tables with a row for each token or position, which PEFT treats apart from layers."""

EXACT = 512
"""Matrices with fewer rows or columns are decomposed as a whole."""

MARGIN = 8
"""Vectors by which a block of the Krylov space is wider than the rank."""

TOLERANCE = 1e-8

CHUNK = 1 << 20
"""Elements that are compared at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Factored:
    """One tensor that the adapter changes.

    Attributes:
        name: Its name in the base.
        rank: Rank of its factors.
        error: What is left of the difference: ‖D - B A‖ / ‖D‖.
        energy: How much of it is kept: 1 - error².
    """

    name: str
    rank: int
    error: float
    energy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rest:
    """One tensor that differs and gets no factors.

    Attributes:
        name: Its name in the base.
        difference: ‖D‖ / ‖W_base‖, None where the base is zero or holds no floating-point numbers.
        saved: Whether the adapter holds it whole.
    """

    name: str
    difference: float | None
    saved: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Extraction:
    """An adapter that was made.

    Attributes:
        path: Its directory.
        rank: Greatest rank of its factors.
        tensors: What it changes by factors, in the base's order.
        rest: What else differs, saved whole or not at all.
        unchanged: How many tensors are the same in both models.
        size_bytes: Its size on disk.
        seconds: How long making it took.
        notes: What the user should know about it.
    """

    path: Path
    rank: int
    tensors: tuple[Factored, ...]
    rest: tuple[Rest, ...]
    unchanged: int
    size_bytes: int
    seconds: float
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        return {**asdict(self), "path": str(self.path)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What is asked for.

    Attributes:
        rank: Greatest rank of a tensor's factors.
        include: Globs over the names of tensors that may get factors; all, if there are none.
        exclude: Globs over the names of those that get none.
        embeddings: Whether embeddings get factors too.
        save_rest: Whether what differs and gets no factors is saved whole.
    """

    rank: int = 16
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    embeddings: bool = False
    save_rest: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractionPlan:
    """An extraction that nothing in the headers speaks against.

    Attributes:
        base: The open base.
        tuned: The open fine-tuned model.
        wishes: What is asked for.
        labels: What to call the two in messages and in the record.
        names: The tensors that get factors if they differ.
    """

    base: Reader
    tuned: Reader
    wishes: Wishes
    labels: tuple[str, str]
    names: tuple[str, ...]

    @property
    def sources(self) -> list[Path]:
        """Every file and directory that is read."""
        return [file for reader in (self.base, self.tuned) for file in (reader.path, *reader.header.files)]

    @property
    def bytes_read(self) -> int:
        """Bytes of values read in one pass over both models."""
        return sum(spec.size_bytes for reader in (self.base, self.tuned) for spec in reader.specs().values())

    @property
    def bytes_written(self) -> int:
        """Bytes of all factors."""
        return sum(spec.size_bytes for part in self.parts(self.names) for spec in (part.down, part.up))

    @property
    def working_bytes(self) -> int:
        """Memory for the largest difference, its singular vectors and what finding them takes."""
        return max(40 * self.base.specs()[name].size for name in self.names)

    def seconds(self) -> float:
        """Return a rough estimate of the time it takes, most of it spent on products with the differences."""
        width = self.wishes.rank + MARGIN
        products = sum(40 * width * self.base.specs()[name].size for name in self.names)
        return 0.6 + 2 * self.bytes_read / 1e9 + products / 2e10

    def parts(self, names: Sequence[str]) -> list["_Part"]:
        """Return the factors of tensors."""
        return [_part(self.base, name, self.wishes.rank) for name in names]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """A tensor that gets factors: its specs in the adapter, and whether they are of its transpose."""

    name: str
    down: TensorSpec
    up: TensorSpec
    turned: bool

    @property
    def module(self) -> str:
        return self.name.removesuffix(".weight")


def plan_extraction(
    base: Reader, tuned: Reader, wishes: Wishes, labels: tuple[str, str] = ("base", "the fine-tuned model")
) -> ExtractionPlan:
    """Return the plan of an extraction, from headers alone.

    Raises:
        MismatchError: If the two are not one architecture with the same tensors.
        OptionError: If a wish makes no sense.
    """
    if wishes.rank < 1:
        raise OptionError(f"the rank is {wishes.rank}, expected a whole number from 1 on")
    try:
        pair((labels[0], base), (labels[1], tuned), MergeRequest(method="linear", labels=labels), [])
    except MismatchError as error:
        raise MismatchError(
            *error.reasons, advice="an adapter needs the model that was fine-tuned, set up alike"
        ) from error
    ours, theirs = base.specs(), tuned.specs()
    reasons = [f"tensor {name!r} is in {labels[0]} alone" for name in ours if name not in theirs]
    reasons += [f"tensor {name!r} is in {labels[1]} alone" for name in theirs if name not in ours]
    reasons += [
        f"tensor {name!r} has shape {spec.shape} in {labels[0]} but {theirs[name].shape} in {labels[1]}"
        for name, spec in ours.items()
        if name in theirs and theirs[name].shape != spec.shape
    ]
    if reasons:
        raise MismatchError(*reasons, advice="an adapter needs the model that was fine-tuned, with the same tensors")
    for glob in (*wishes.include, *wishes.exclude):
        if not fnmatch.filter(ours, glob):
            raise OptionError(f"{glob!r} matches no tensor; they are called {next(iter(ours), 'nothing')!r} and so on")
    names = tuple(name for name, spec in ours.items() if _may_have_factors(spec, wishes))
    if not names:
        raise MismatchError(
            f"no tensor of {labels[0]} can get factors: these are matrices with names that end in .weight, as in Hugging Face models"
        )
    return ExtractionPlan(base=base, tuned=tuned, wishes=wishes, labels=labels, names=names)


def _may_have_factors(spec: TensorSpec, wishes: Wishes) -> bool:
    return (
        spec.name.endswith(".weight")
        and len(spec.shape) == 2
        and min(spec.shape) > 0
        and spec.dtype in FLOATS
        and (not wishes.include or _matches(spec.name, wishes.include))
        and not _matches(spec.name, wishes.exclude)
        and (wishes.embeddings or not _matches(spec.name, EMBEDDINGS))
    )


def _matches(name: str, globs: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, glob) for glob in globs)


def extract(
    plan: ExtractionPlan,
    target: Path,
    *,
    overwrite: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> Extraction:
    """Write an adapter that makes the fine-tuned model of its base, as nearly as its rank allows.

    Args:
        plan: The plan; its sources are open.
        target: The adapter's directory.
        overwrite: Whether an existing adapter may be replaced.
        progress: Told how far the work is.

    Raises:
        MismatchError: If the two models do not differ.
        NonFiniteError: If one holds NaN or infinity.
        OutputError: If the target exists, is a source or cannot be written.
    """
    begin = time.perf_counter()
    base, tuned, wishes, labels = plan.base, plan.tuned, plan.wishes, plan.labels
    check_target(target, ADAPTER, plan.sources, overwrite=overwrite)
    total = 2 * sum(spec.size_bytes for spec in base.specs().values())
    done = 0

    def tell(spec: TensorSpec) -> None:
        nonlocal done
        done += spec.size_bytes
        if progress is not None:
            progress("extract", min(done, total), total)

    differing: dict[str, float | None] = {}
    for name, spec in base.specs().items():
        differs, ratio = _difference(base, tuned, name, labels)
        tell(spec)
        if differs:
            differing[name] = ratio
    if not differing:
        raise MismatchError(f"{labels[0]} and {labels[1]} hold the same values, so there is no difference to extract")
    parts = plan.parts([name for name in plan.names if name in differing])
    rest = [name for name in differing if name not in {part.name for part in parts}]
    saved, modules, biases = _whole(base, rest, parts) if wishes.save_rest else ({}, [], False)
    if not parts:
        raise MismatchError(
            f"none of the {len(rest)} tensors that differ gets factors, {rest[0]!r} to begin with",
            advice="look at include, exclude and --embeddings (embeddings=True)",
        )
    config = _config(base, parts, modules, wishes.rank, biases=biases)
    settings = {**asdict(wishes), "model": labels[1], "base": labels[0]}
    record = provenance.record("extract_lora", settings, [(labels[1], tuned), (labels[0], base)])
    kept = {key: base.specs()[name] for name, key in saved.items()}
    specs = [
        *(spec for part in parts for spec in (part.down, part.up)),
        *(TensorSpec(name=key, shape=spec.shape, dtype=tuned.specs()[spec.name].dtype) for key, spec in kept.items()),
    ]
    factored = []
    with Staged(target, ADAPTER, overwrite=overwrite) as staged:
        try:
            staged.path.mkdir()
            (staged.path / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{target} cannot be written: {error.strerror or error}") from error
        writer = SafetensorsWriter(
            staged.path / WEIGHTS, specs, like=base, provenance=record, metadata={"format": "pt"}
        )
        sums: dict[str, int] = {}

        def write(key: str, raw: NDArray[Any]) -> None:
            try:
                writer.write(key, 0, raw)
            except OSError as error:
                raise OutputError(f"{target} cannot be written: {error.strerror or error}") from error
            sums[key] = zlib.crc32(raw.view(np.uint8).data)

        try:
            for part in parts:
                delta = _delta(base, tuned, part)
                up, down = _factors(delta, part.down.shape[0], part.name)
                factored.append(_measured(part, delta, up, down))
                write(part.down.name, down.reshape(-1))
                write(part.up.name, up.reshape(-1))
                tell(base.specs()[part.name])
            for key, spec in kept.items():
                theirs = tuned.specs()[spec.name]
                raw = np.empty(theirs.size, RAW_DTYPES[theirs.dtype])
                tuned.read_into(spec.name, 0, raw)
                write(key, raw)
            writer.finish()
        finally:
            writer.close()
        _reopen(staged.path / WEIGHTS, specs, sums)
        staged.commit()
    if progress is not None:
        progress("extract", total, total)
    rows = tuple(Rest(name=name, difference=differing[name], saved=name in saved) for name in rest)
    return Extraction(
        path=target,
        rank=wishes.rank,
        tensors=tuple(factored),
        rest=rows,
        unchanged=len(base.specs()) - len(differing),
        size_bytes=sum((target / name).stat().st_size for name in (CONFIG, WEIGHTS)),
        seconds=time.perf_counter() - begin,
        notes=(*_notes(rows, save_rest=wishes.save_rest), *staged.notes),
    )


def _notes(rest: Sequence[Rest], *, save_rest: bool) -> tuple[str, ...]:
    lost = [row for row in rest if not row.saved]
    if not lost:
        return ()
    most = max(lost, key=lambda row: row.difference if row.difference is not None else -1.0)
    amount = "" if most.difference is None else f", {most.name} the most: by {most.difference:.2g} of its norm"
    hint = (
        "their modules cannot be saved beside factors" if save_rest else "--save-rest (save_rest=True) saves them whole"
    )
    return (f"{len(lost)} tensors differ and are not in the adapter ({lost[0].name} and so on{amount}); {hint}",)


# Reading -----------------------------------------------------------------------------------------------------------------


def _blocks(reader: Reader, name: str) -> Iterator[NDArray[Any]]:
    """Yield a tensor's numbers in float64; other dtypes' elements as they are."""
    spec = reader.specs()[name]
    for start in range(0, spec.size, CHUNK):
        raw = np.empty(min(CHUNK, spec.size - start), RAW_DTYPES[spec.dtype])
        reader.read_into(name, start, raw)
        if spec.dtype not in FLOATS:
            yield raw
            continue
        numbers = np.empty(raw.size, np.float64)
        decode(raw, spec.dtype, numbers)
        yield numbers


def _difference(base: Reader, tuned: Reader, name: str, labels: tuple[str, str]) -> tuple[bool, float | None]:
    """Return whether any value differs, and ‖D‖ / ‖W_base‖ where there is such a number."""
    pairs = zip(_blocks(base, name), _blocks(tuned, name), strict=True)
    if base.specs()[name].dtype not in FLOATS or tuned.specs()[name].dtype not in FLOATS:
        return any(not np.array_equal(ours, theirs) for ours, theirs in pairs), None
    squares = np.zeros(2)
    differs = False
    for ours, theirs in pairs:
        for label, numbers in zip(labels, (ours, theirs), strict=True):
            _refuse_nonfinite(numbers, name, label)
        differs = differs or not np.array_equal(ours, theirs)
        squares += np.square(theirs - ours).sum(), np.square(ours).sum()
    return differs, float(np.sqrt(squares[0] / squares[1])) if squares[1] else None


def _delta(base: Reader, tuned: Reader, part: _Part) -> NDArray[np.float64]:
    """Return what the factors approximate: the difference, or its transpose."""
    out = np.empty(base.specs()[part.name].shape)
    flat, at = out.reshape(-1), 0
    for ours, theirs in zip(_blocks(base, part.name), _blocks(tuned, part.name), strict=True):
        flat[at : at + ours.size] = theirs - ours
        at += ours.size
    return out.T if part.turned else out


def _refuse_nonfinite(numbers: NDArray[np.float64], name: str, label: str) -> None:
    if not np.isfinite(numbers).all():
        raise NonFiniteError(f"tensor {name!r} of {label} holds NaN or infinity, of which no factors can be made")


# Factors -----------------------------------------------------------------------------------------------------------------


def _factors(delta: NDArray[np.float64], rank: int, name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return B and A, whose product is the best approximation of `delta` of that rank."""
    found = None
    if min(delta.shape) > EXACT and 4 * rank < min(delta.shape):
        found = _krylov(delta, rank, name)
    try:
        u, s, vt = found or np.linalg.svd(delta, full_matrices=False)
    except np.linalg.LinAlgError as error:
        raise MismatchError(
            f"the difference of tensor {name!r} has no singular value decomposition: {error}"
        ) from error
    root = np.sqrt(s[:rank])
    up, down = u[:, :rank] * root, root[:, None] * vt[:rank]
    return np.ascontiguousarray(up, np.float32), np.ascontiguousarray(down, np.float32)


def _krylov(
    delta: NDArray[np.float64], rank: int, name: str
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]] | None:
    """Return the largest singular values and their vectors; None if the space grows so large that a whole decomposition is as good."""
    rows, columns = delta.shape
    width = rank + MARGIN
    draw = np.random.Generator(np.random.Philox(int(rng.key(0, name, 0))))
    basis = np.empty((rows, 0))
    images = np.empty((0, columns))
    energy, all_energy = 0.0, float(np.square(delta).sum())
    new = delta @ draw.standard_normal((columns, width))
    while basis.shape[1] + width <= min(delta.shape) // 2:
        for _ in range(2):  # once leaves what rounding left
            new = np.linalg.qr(new - basis @ (basis.T @ new))[0]
        image = new.T @ delta
        basis, images = np.hstack([basis, new]), np.vstack([images, image])
        found = float(np.linalg.eigvalsh(images @ images.T)[-rank:].sum())
        if found - energy <= TOLERANCE * all_energy:
            inner, s, vt = np.linalg.svd(images, full_matrices=False)
            return basis @ inner, s, vt
        energy, new = found, delta @ image.T
    return None


def _measured(part: _Part, delta: NDArray[np.float64], up: NDArray[np.float32], down: NDArray[np.float32]) -> Factored:
    """Return how near the product of the factors, as they are stored, comes to the difference."""
    left = whole = 0.0
    rows = max(1, CHUNK // delta.shape[1])
    wide = down.astype(np.float64)
    for row in range(0, len(delta), rows):
        piece = delta[row : row + rows]
        left += float(np.square(piece - up[row : row + rows].astype(np.float64) @ wide).sum())
        whole += float(np.square(piece).sum())
    return Factored(name=part.name, rank=len(down), error=(left / whole) ** 0.5, energy=1 - left / whole)


# The adapter's files -----------------------------------------------------------------------------------------------------


def _part(base: Reader, name: str, rank: int) -> _Part:
    shape = base.specs()[name].shape
    module = name.removesuffix(".weight")
    embedding = _matches(name, EMBEDDINGS)
    turned = embedding or bool(keeps_transposed(module, base))
    rank = min(rank, *shape)
    out, into = shape[::-1] if turned else shape
    keys = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A.weight", "lora_B.weight")
    down, up = (f"{PREFIX}{module}.{key}" for key in keys)
    return _Part(
        name=name,
        down=TensorSpec(name=down, shape=(rank, into), dtype="float32"),
        up=TensorSpec(name=up, shape=(out, rank), dtype="float32"),
        turned=turned,
    )


def _whole(base: Reader, rest: Sequence[str], parts: Sequence[_Part]) -> tuple[dict[str, str], list[str], bool]:
    """Return the keys under which tensors are saved whole, the modules that they make up, and whether biases of adapted layers are.

    PEFT saves a module with everything in it, and no module both ways: what lies around an adapted layer cannot be saved.
    """
    adapted = {part.module for part in parts}
    saved: dict[str, str] = {}
    modules: list[str] = []
    for name in rest:
        module = name.rpartition(".")[0]
        if base.specs()[name].dtype not in FLOATS:
            continue
        if name == f"{module}.bias" and module in adapted:
            saved[name] = f"{PREFIX}{module}.base_layer.bias"
        elif module and not any(each == module or each.startswith(f"{module}.") for each in adapted):
            modules += [module] if module not in modules else []
    for module in modules:
        inside = [spec for name, spec in base.specs().items() if name.startswith(f"{module}.")]
        saved |= {spec.name: PREFIX + spec.name for spec in inside if spec.dtype in FLOATS}
    return saved, modules, any(key.endswith(".base_layer.bias") for key in saved.values())


def _config(
    base: Reader, parts: Sequence[_Part], modules: Sequence[str], rank: int, *, biases: bool
) -> Mapping[str, Any]:
    """Return what ``adapter_config.json`` says, as PEFT spells it."""
    ranks = {part.module: part.down.shape[0] for part in parts}
    lower = [module for module, found in ranks.items() if found < rank]
    # a pattern counts for every module whose name ends in it, and the first one counts: longer names go first
    named = [m for m in ranks if any(m == end or m.endswith(f".{end}") for end in lower)]
    pattern = {re.escape(module): ranks[module] for module in sorted(named, key=lambda module: (-len(module), module))}
    cards = base.header.cards
    return {
        "alpha_pattern": pattern,
        "auto_mapping": None,
        "base_model_name_or_path": cards[0].name or cards[0].file if cards else base.path.name,
        "bias": "lora_only" if biases else "none",
        "fan_in_fan_out": any(part.turned and not _matches(part.name, EMBEDDINGS) for part in parts),
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "modules_to_save": list(modules) or None,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": pattern,
        "revision": (cards[0].revision or None) if cards else None,
        "target_modules": list(ranks),
        "task_type": None,
        "use_dora": False,
        "use_rslora": False,
    }


def _reopen(file: Path, specs: Sequence[TensorSpec], sums: Mapping[str, int]) -> None:
    """Compare a file that was written with what was meant."""
    with SafetensorsReader(file) as reader:
        for spec in specs:
            raw = np.empty(spec.size, RAW_DTYPES[spec.dtype])
            reader.read_into(spec.name, 0, raw)
            if zlib.crc32(raw.view(np.uint8).data) != sums[spec.name]:
                raise OutputError(f"the result was reopened and tensor {spec.name!r} does not hold what was written")
