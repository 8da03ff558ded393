"""From a plan to a finished file: written beside its name, checked, moved into place; and models written in another format.

Nothing here decides what is right (`graftwork.planning` does) or how it is computed (`graftwork.executor` does). It holds the
order in which things happen, so that whatever fails and whenever, sources stay as they are and no half-written result is left.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from graftwork import provenance
from graftwork.ckpt.counterparts import by_names
from graftwork.errors import MismatchError, OptionError, OutputError
from graftwork.methods import get
from graftwork.methods.options import Place, companion_files
from graftwork.pairing import Source, numbered
from graftwork.planning import MergePlan, MergeRequest, Step, check_output
from graftwork.stores import FORMATS, Format, Reader, distinct, format_for_target, label_of, open_store, spelling
from graftwork.stores.staged import Staged
from graftwork.tensor import FLOATS, Role, TensorSpec

Progress = Callable[[str, int, int], None]
"""Called with what is being done, bytes dealt with so far and bytes in all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A file that was made.

    Attributes:
        path: Where it is.
        format: Its format.
        tensors: How many tensors it holds.
        size_bytes: Its size on disk.
        seconds: How long making it took.
        notes: What the user should know about it.
        tables: What was decided, by what it is about, as rows of plain values.
    """

    path: Path
    format: str
    tensors: int
    size_bytes: int
    seconds: float
    notes: tuple[str, ...]
    tables: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where and how a result is written.

    Attributes:
        path: The file or directory.
        format: Name of the format; by default the path's ending tells.
        overwrite: Whether an existing result may be replaced.
        threads: How many threads work.
        drop_compile: Leave out how the model was compiled.
        shard_bytes: Greatest size of a shard, where the format has shards.
        check: Load a composition in a fresh process, and compare what it says there with what its members say.
        passing: Whether it is only there until a recipe ends.
    """

    path: Path
    format: str | None = None
    overwrite: bool = False
    threads: int = 0
    drop_compile: bool = False
    shard_bytes: int | None = None
    check: bool = True
    passing: bool = False

    def workers(self) -> int:
        """Return the number of threads: as asked, else one for each processor that this process may use."""
        if self.threads < 0:
            raise OptionError(f"threads is {self.threads}, expected at least 1")
        return self.threads or len(os.sched_getaffinity(0))

    def options(self, row: Format) -> dict[str, Any]:
        """Return the further arguments of the format's writer."""
        import inspect

        assert row.create is not None
        known = inspect.signature(row.create).parameters
        given: dict[str, Any] = {}
        for name, value, what in (
            ("drop_compile", self.drop_compile or None, "compile settings"),
            ("shard_bytes", self.shard_bytes, "shards"),
        ):
            if value is not None:
                if name not in known:
                    having = ", ".join(
                        f"{each.name} ({' or '.join(each.suffixes) or 'a directory'})"
                        for each in FORMATS.values()
                        if each.create and name in inspect.signature(each.create).parameters
                    )
                    raise OptionError(f"format {row.name!r} has no {what}; formats that have: {having}")
                given[name] = value
        if "target" in known:
            given["target"] = self.path
        return given


@contextlib.contextmanager
def opened(paths: Sequence[Path]) -> Iterator[list[Reader]]:
    """Open sources in order and close them all at the end."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(open_store(path)) for path in paths]


@contextlib.contextmanager
def companions(request: MergeRequest, root: Path = Path()) -> Iterator[list[Reader]]:
    """Open the files that tell more about the models of a merge, whose paths are relative to `root`; none for most methods."""
    files = companion_files(request.method, request.options, request.labels)
    with opened([spelling.below(root, file) for file in files]) as readers:
        yield readers


def labels_of(paths: Sequence[Path]) -> tuple[str, ...]:
    """Return a short name for each source: its file name without endings, with a number where two are the same."""
    return distinct([label_of(path) for path in paths])


def counting(verb: str, total: int, progress: Progress | None) -> Callable[[int], None]:
    """Return what adds up bytes and tells how far the work is."""
    done = 0

    def count(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        if progress is not None:
            progress(verb, min(done, total), total)

    return count


def row_of(plan: MergePlan, target: Target, like: Reader | None = None) -> Format:
    """Return the format that a result is written in, if headers tell that it can be, as the target wants it.

    Args:
        plan: What makes it.
        target: Where and how it is written.
        like: Lends architecture and places; by default the plan says.

    Raises:
        OutputError: If it cannot be.
        OptionError: If the format has no such thing as the target asks for.
    """
    like = like or plan.lender
    row = format_for_target(target.path, like, target.format)
    if row.create is None:
        raise OutputError(
            f"format {row.name!r} is only read; end the target in .safetensors, .index or the like, or name another format"
        )
    check_output(plan, target.path, row, overwrite=target.overwrite, like=like)
    target.options(row)
    return row


def write_merge(
    plan: MergePlan,
    target: Target,
    settings: Mapping[str, Any],
    progress: Progress | None = None,
    *,
    verb: str = "merge",
    like: Reader | None = None,
    made_of: Sequence[tuple[str, Reader | None]] | None = None,
    custom_objects: Sequence[str] = (),
    look: Callable[[Reader], Sequence[str]] | None = None,
) -> Result:
    """Run a plan into a file.

    Args:
        plan: The plan; its sources are open.
        target: Where to.
        settings: What the record of the result says.
        progress: Told how far the work is.
        verb: What the record calls it.
        like: Lends architecture and places; by default the plan says.
        made_of: What the record names as sources, None for a live model; by default what the plan reads.
        custom_objects: The files and modules of the user's code that the record names.
        look: Looks at the finished result before it takes its name, and returns what the user should know.

    Raises:
        OutputError: If the target cannot be written.
        NonFiniteError: If a source holds NaN or infinity.
    """
    from graftwork.executor.local import LocalExecutor
    from graftwork.executor.written import verify_written

    begin = time.perf_counter()
    like = like or plan.lender
    row = row_of(plan, target, like)
    assert row.create is not None
    sources = [*zip(plan.request.labels, plan.models, strict=True)]
    if plan.base is not None:
        sources.append((plan.request.base_label or "base", plan.base))
    companions: list[tuple[str, Reader]] = []
    if plan.companions:
        kind = get(plan.request.method).companion
        companions = [
            (f"{kind} of {label}", reader) for (label, _), reader in zip(sources, plan.companions, strict=False)
        ]
        settings = {**settings, kind: [reader.path.name for reader in plan.companions]}
    total = plan.bytes_read * plan.passes
    with Staged(target.path, row, overwrite=target.overwrite) as staged:
        try:
            writer = row.create(
                staged.path,
                plan.specs,
                like=like,
                provenance=provenance.record(
                    verb,
                    settings,
                    sources if made_of is None else made_of,
                    companions=companions,
                    custom_objects=custom_objects,
                    passing=target.passing,
                ),
                **target.options(row),
            )
        except OSError as error:
            raise OutputError(f"{target.path} cannot be written: {error.strerror or error}") from error
        try:
            outcome = LocalExecutor(
                plan, writer, threads=target.workers(), progress=counting(verb, total, progress)
            ).run()
            try:
                writer.finish()
            except OSError as error:
                raise OutputError(f"{target.path} cannot be written: {error.strerror or error}") from error
        finally:
            writer.close()
        with row.open(staged.opened_as) as reader:
            verify_written(reader, plan.specs, outcome.written, target.workers(), keys=getattr(writer, "keys", {}))
            found = look(reader) if look is not None else ()
        staged.commit()
    if progress is not None:
        progress(verb, total, total)
    return Result(
        path=target.path,
        format=row.name,
        tensors=len(plan.specs),
        size_bytes=_size(target.path, row),
        seconds=time.perf_counter() - begin,
        notes=(*plan.notes, *outcome.notes, *getattr(writer, "notes", ()), *found, *staged.notes),
        tables=plan.tables,
    )


def _size(path: Path, row: Format) -> int:
    if path.is_dir():
        return sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
    if row.files_beside:
        with row.open(path) as reader:
            return reader.header.size_bytes
    return path.stat().st_size


# Convert ---------------------------------------------------------------------------------------------------------------


def plan_convert(
    source: Reader, row: Format, *, like: Reader | None = None, dtype: str | None = None
) -> tuple[MergePlan, tuple[str, ...]]:
    """Return a plan that copies a source into another format, and what the format cannot carry.

    Args:
        source: The open source.
        row: The format to write.
        like: A model of the same architecture that lends names and what the source does not have.
        dtype: Cast floating-point tensors to this.

    Raises:
        MismatchError: If `like` has other tensors than the source.
    """
    losses: list[str] = []
    specs = list(source.specs().values())
    keras_family = ("keras", "weights_h5", "sharded_h5", "keras_dir", "preset")
    lender = like or source
    carries_optimizer = row.name == source.header.format or (
        row.name in keras_family and source.header.format in keras_family and like is None
    )
    optimizer = [spec for spec in specs if spec.role is Role.OPTIMIZER]
    if optimizer and not carries_optimizer:
        losses.append(f"the optimizer state ({len(optimizer)} tensors)")
        specs = [spec for spec in specs if spec.role is not Role.OPTIMIZER]
    names = {spec.name: spec.name for spec in specs}
    if like is not None:
        names = _same_tensors(source, like, specs)
        left_out = [spec for spec in specs if spec.name not in names]
        losses += [f"{len(left_out)} counters and states of random generators"] if left_out else []
        specs = [spec for spec in specs if spec.name in names]
    if source.header.config is not None and not row.holds_architecture and row.name != source.header.format:
        losses.append("the architecture")
    elif (
        _is_compiled(source) and ("legacy_h5" in (row.name, source.header.format)) and row.name != source.header.format
    ):
        losses.append("how the model was compiled")
    if source.header.assets and not row.holds_architecture and row.name != source.header.format:
        losses.append(f"{len(source.header.assets)} vocabularies and other assets")
    if dtype is not None and dtype not in FLOATS:
        raise OptionError(f"a result cannot have dtype {dtype!r}; choose one of {', '.join(FLOATS)}")
    cast = get("passthrough")() if dtype is not None else None
    steps = []
    for spec in specs:
        kept = spec.role in (Role.QUANTIZED, Role.OPTIMIZER)
        casts = dtype is not None and spec.dtype in FLOATS and spec.dtype != dtype and not kept
        own = replace(spec, name=names[spec.name])
        steps.append(
            Step(
                spec=replace(own, dtype=dtype) if casts and dtype is not None else own,
                readers=(source,),
                labels=(lender.path.name,),
                sources=(Source(name=spec.name),),
                n_models=1,
                place=Place(own.name, str(own.role)),
                method=cast if casts else None,
            )
        )
    request = MergeRequest(method="passthrough", labels=(lender.path.name,), allow_nonfinite=True)
    plan = MergePlan(request=request, models=(source,), base=None, steps=tuple(steps), notes=())
    return plan, tuple(losses)


def _is_compiled(source: Reader) -> bool:
    config = source.header.config
    return source.header.format == "legacy_h5" or (isinstance(config, dict) and bool(config.get("compile_config")))


def _same_tensors(source: Reader, like: Reader, specs: Sequence[TensorSpec]) -> dict[str, str]:
    """Return what each tensor of a source is called in a model of the same architecture: the same, but for a prefix before all names.

    Counters and states of random generators that the model does not keep go nowhere.

    Raises:
        MismatchError: If the two have other tensors.
    """
    wanted = {name: spec for name, spec in like.specs().items() if spec.role is not Role.OPTIMIZER}
    given = {spec.name: spec for spec in specs}
    names = {found.name: name for name, found in by_names(wanted, given).items()} or {name: name for name in given}
    there, ours = set(names.values()), numbered(like)
    for number, name in numbered(source).items():
        own = ours.get(number)
        if name in names and names[name] not in wanted and own in wanted and own not in there:
            names[name] = own
    there = set(names.values())
    reasons = [
        f"{source.path.name} has no tensor {name!r}, which {like.path.name} has" for name in wanted if name not in there
    ]
    reasons += [
        f"tensor {name!r} of {source.path.name} is not in {like.path.name}"
        for name, spec in given.items()
        if names.get(name) not in wanted and spec.role not in (Role.COUNTER, Role.SEED)
    ]
    reasons += [
        f"tensor {name!r} has shape {given[name].shape} in {source.path.name} but {wanted[own].shape} in {like.path.name}"
        for name, own in names.items()
        if own in wanted and wanted[own].shape != given[name].shape
    ]
    if reasons:
        raise MismatchError(
            *reasons,
            advice="`like` must be a model of the same architecture and names; where names differ, `graftwork savedmodel lift` finds out "
            "which tensor is which",
        )
    return {name: own for name, own in names.items() if own in wanted}


def convert(
    source: Path,
    target: Target,
    *,
    like: Path | None = None,
    dtype: str | None = None,
    progress: Progress | None = None,
) -> Result:
    """Write a model in another format; see `graftwork.convert`."""
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(open_store(source))
        lender = stack.enter_context(open_store(like)) if like is not None else None
        row = format_for_target(target.path, lender or reader, target.format)
        plan, losses = plan_convert(reader, row, like=lender, dtype=dtype)
        settings = {
            "source": reader.path.name,
            "format": row.name,
            "dtype": dtype,
            "like": lender.path.name if lender else None,
        }
        result = write_merge(plan, target, settings, progress, verb="convert", like=lender)
    return replace(result, notes=(*result.notes, *(f"{row.name} cannot carry {loss}: left out" for loss in losses)))
