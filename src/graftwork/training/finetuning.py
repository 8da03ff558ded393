"""Fine-tuning as it is done: the head on kept features, the whole model, and what is measured on the way."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from graftwork.compose.base import Composed, Member, Progress, Trained
from graftwork.compose.graph import Tap, own_calls, settle
from graftwork.compose.heads import Head
from graftwork.compose.naming import Names
from graftwork.compose.outputs import checked_kind
from graftwork.compose.ports import Port, graph_of, inputs
from graftwork.compose.swapping import foot_of, place_of, swap
from graftwork.compose.trained import Part, count, has_weights, is_batchnorm, matching, parts, set_trained
from graftwork.data import Samples
from graftwork.data.base import Stream
from graftwork.data.samples import Part as Read
from graftwork.errors import OptionError
from graftwork.models.lazy import keras
from graftwork.models.outputs import ending
from graftwork.training.anchoring import anchored, between, curve, values_of
from graftwork.training.contenders import unwarned
from graftwork.training.crowning import WORDS, crowned, solved, wanted_by
from graftwork.training.failing import failing
from graftwork.training.features import COLUMN, digest, features, told_apart, why_not_once
from graftwork.training.feeding import dataset, fitted, raised_as_it_was, streamed
from graftwork.training.forgetting import Task
from graftwork.training.halves import halves
from graftwork.training.lessons import first_labels
from graftwork.training.matching import SWITCHES, Target, check_labels, check_part, matched, target_of
from graftwork.training.objectives import check_switches, has_columns, objective
from graftwork.training.placing import alias, check_place, placed
from graftwork.training.remembering import check_order
from graftwork.training.running import Fit, History, run
from graftwork.training.seeding import seeded
from graftwork.training.streams import parts_of
from graftwork.training.tokens import check_tokens, vocabularies

CHANGING = ("probabilities", "sigmoid")
"""What a model gives that no head is put on: the answers to its old task."""


class Finetuning:
    """One use of the verb `finetune`.

    Args:
        wishes: The verb.
        member: The model.

    Raises:
        GraftworkError: If something does not fit.
    """

    def __init__(self, wishes: Any, member: Member) -> None:
        self.wishes, self.member = (wishes := wishes.given()), member
        self.fit: Fit = wishes.fit()
        check_place(self.fit)
        self.data: Samples | Stream = wishes.data
        self.validation, self.old = wishes.validation, wishes.old
        self.task = self._task()
        with seeded(wishes.seed):
            self._crown()
        self.target = self._target()
        self.aim = objective(self.target, self.data, wishes.loss)
        self.aim.made_loss()
        self.data = self._fitting(self.data)
        check_order(member.name, self.model, self.data)
        self.known = vocabularies(self.model)
        self.validation = None if self.validation is None else self._fitting(self.validation)
        self.why_not = self.halves.why_not or why_not_once(self.halves.trunk(), self.halves.port, self.data)
        self._check_options()
        self.stages = self._stages()
        for layers in self.stages:
            self._unfreeze(layers)

    # Looked at beforehand -----------------------------------------------------------------------------------------------

    def _task(self) -> Task | None:
        """Return the old task, where there is data of it."""
        if self.old is None:
            return None
        if not isinstance(self.old, Samples):
            raise OptionError(f"old: {self.old.name} yields batches; what is forgotten is measured on samples")
        model = self.member.model
        last = ending(model)
        return Task(model, matched(self.old, model), target_of(model, last.kind), self.wishes.batch)

    def _crown(self) -> None:
        """Put the head on, and freeze what is below it."""
        wishes, member = self.wishes, self.member
        self.reference: Callable[[Any], Any] | None = None
        self.exact = False
        if wishes.head == "own":
            if wishes.at is not None or wishes.hidden or wishes.activation or wishes.port:
                raise OptionError(
                    "head='own' is the model's own: `at`, `port`, `hidden` and `activation` are for new ones"
                )
            self.model = member.model
            self.halves = halves(self.model, foot_of(self.model))
            self.notes: tuple[str, ...] = (f"{member.name}: its own head stands on {self.halves.port}",)
            self.classes = member.classes
        else:
            place = place_of(member.model, wishes.port)
            last = ending(member.model, place)
            answers = last.kind in CHANGING
            swapped = swap(
                member,
                self._head,
                at=wishes.at,
                port=wishes.port,
                on_top=not answers,
                alone=True,
                name=wishes.name,
            )
            self.model, self.reference, self.notes = swapped.model, swapped.reference, swapped.notes
            if last.open and wishes.at is None:
                self.notes += (_doubtful(member, last.what, wishes.port),)
            self.halves = halves(self.model, Tap((), swapped.below, swapped.port.name))
            self.classes = None
            settle(self.model)
        self._freeze()
        if not self.model.trainable_weights:
            behind = [
                leaf for part in parts(self.model) for leaf in part.leaves() if id(leaf.layer) in self.halves.behind
            ]
            set_trained(self.model, {id(leaf.layer): True for leaf in behind if has_weights(leaf)})
        if not self.model.trainable_weights:
            raise OptionError("the head has no weights, so there is nothing to train")

    def _freeze(self) -> None:
        set_trained(self.model, {id(leaf.layer): False for leaf in self.halves.leaves()})

    def _unfreeze(self, layers: Sequence[Any]) -> None:
        set_trained(self.model, {id(layer): True for layer in layers}, batchnorm=self.wishes.batchnorm)

    def _head(self, value: Port, names: Names, spread: bool) -> Head:
        wishes = self.wishes
        word = isinstance(wishes.head, str) and wishes.head in WORDS
        return crowned(
            wishes.head,
            value,
            names,
            wanted=wanted_by(self.data) if word else None,
            hidden=wishes.hidden,
            activation=wishes.activation,
            spread=spread,
        )

    def _target(self) -> Target:
        """Return the output of the result, with what it is."""
        said = self.wishes.outputs
        found = ending(self.model)
        if said != "auto":
            word = checked_kind(said, "outputs")
            if found.kind is not None and found.kind != word:
                raise OptionError(
                    f"the head ends in {found.what}, so it gives {found.kind}, not {word} as `outputs` says"
                )
            return target_of(self.model, word)
        target = target_of(self.model, found.kind)
        if target.kind is None and found.open and isinstance(self.data, Samples):
            with contextlib.suppress(OptionError):  # labels that do not tell either
                if wanted_by(self.data).activation == "linear":
                    return replace(target, kind="regression")
        return target

    def _fitting(self, data: Samples | Stream) -> Samples | Stream:
        """Return data with its columns in the inputs, and labels that are the output's."""
        if not isinstance(data, Samples):
            return data
        found = matched(data, self.model)
        check_labels(found, self.target)
        if self.target.kind == "probabilities" and found.classes and len(found.classes) == self.target.shape[-1]:
            self.classes = found.classes
        return found

    def _check_options(self) -> None:
        wishes = self.wishes
        self.cached = not self.why_not if wishes.cache is None else wishes.cache
        if wishes.cache and self.why_not:
            raise OptionError(f"cache=True: the model below the head must run in every epoch, since {self.why_not}")
        if wishes.head == "logistic" and not self.cached:
            raise OptionError(
                f"head='logistic' is solved on what the model gives, kept, and {self.why_not or 'cache=False forbids that'}"
            )
        if wishes.unfreeze is None:
            beside = {
                "fine_epochs": None,
                "fine_learning_rate": None,
                "l2_sp": 0.0,
                "interpolate": None,
                "batchnorm": False,
            }
            for name, usual in beside.items():
                if getattr(wishes, name) != usual:
                    raise OptionError(f"{name} is for layers below the head that train: say which (unfreeze)")
        if isinstance(wishes.interpolate, float | int) and not 0 <= wishes.interpolate <= 1:
            raise OptionError(f"interpolate is {wishes.interpolate}, expected 0 to 1, or best")
        if wishes.interpolate == "best" and self.validation is None:
            raise OptionError("interpolate='best' is chosen by the loss on data for validation: give it (validation)")

    # The stages ---------------------------------------------------------------------------------------------------------

    def _stages(self) -> list[tuple[Any, ...]]:
        """Return the layers that train in each stage after the head's."""
        said = self.wishes.unfreeze
        if said is None:
            return []
        numbers = [said] if isinstance(said, int) else [each for each in said if isinstance(each, int)]
        groups = [self._from_top(number) for number in numbers] if numbers else [self._matching(said)]
        rates = self.wishes.fine_learning_rate
        if isinstance(rates, Sequence) and len(rates) != len(groups):
            raise OptionError(f"fine_learning_rate has {len(rates)} numbers for {len(groups)} stages")
        return [tuple(leaf.layer for leaf in group) for group in groups]

    def _from_top(self, number: int) -> list[Part]:
        found = [leaf for leaf in self.halves.leaves() if has_weights(leaf)]
        plain = [leaf for leaf in found if not is_batchnorm(leaf)]
        if not 1 <= number <= len(plain):
            raise OptionError(
                f"unfreeze is {number}, and {self.member.name} has {len(plain)} layers with weights below the head "
                "(BatchNormalization not counted)"
            )
        return self._but_norms(found[found.index(plain[-number]) :])

    def _matching(self, patterns: Any) -> list[Part]:
        below = {id(leaf.layer) for leaf in self.halves.leaves()}
        found = [leaf for leaf in matching(self.model, patterns) if id(leaf.layer) in below and has_weights(leaf)]
        chosen = self._but_norms(found)
        if not chosen:
            what = "only BatchNormalization (batchnorm=True lets it train)" if found else "no layer with weights"
            raise OptionError(f"unfreeze ({patterns}) matches {what} below the head")
        return chosen

    def _but_norms(self, found: Sequence[Part]) -> list[Part]:
        return [leaf for leaf in found if self.wishes.batchnorm or not is_batchnorm(leaf)]

    def composed(self) -> Composed:
        """Return the result as it will be, and what trains it."""
        once = (
            "the model below the head runs once over the data, and what it gives is kept"
            if self.cached
            else f"the model below the head runs in every epoch: {self.why_not or 'cache=False'}"
        )
        later = (
            f"then {len(group)} layer{'s' if len(group) > 1 else ''} below the head train{'' if len(group) > 1 else 's'} with it"
            for group in self.stages
        )
        return Composed(
            model=self.model,
            reference=self.reference,
            classes=self.classes,
            notes=(*self.notes, count(self.model), once, *later),
            train=self.train,
        )

    # The work -----------------------------------------------------------------------------------------------------------

    def train(self, progress: Progress | None) -> Trained:
        """Do it, in place on the model; see `Composed.train`."""
        with unwarned():
            return self._train(progress)

    def _train(self, progress: Progress | None) -> Trained:
        self.progress = progress
        self.rows: list[dict[str, Any]] = []
        self.said: list[str] = []
        tables: dict[str, Any] = {}
        before = self.task.remember() if self.task is not None else None
        if not isinstance(self.data, Samples):
            labels = first_labels(self.data, inputs(self.model))
            self.aim = replace(self.aim, spread=labels is not None and has_columns(self.target, labels.shape[1:]))
        with self._folder() as folder:
            told = (told_apart(self.data), told_apart(self.validation), digest(self.model))
            self.key = self.wishes.key(*told)
            starts = {
                id(v): np.array(keras.ops.convert_to_numpy(v))
                for leaf in self.halves.leaves()
                for v in leaf.layer.weights
            }
            self._freeze()
            self._head_stage(folder)
            settle(self.model)
            original = values_of(self.model) if self.wishes.interpolate is not None else []
            for number, layers in enumerate(self.stages, 1):
                self._fine_stage(folder, number, layers, starts)
        if self.wishes.interpolate is not None:
            tables["interpolation"] = self._interpolate(original)
        tables["history"] = self.rows
        if self.task is not None:
            tables["forgetting"] = [{"when": "before", **(before or {})}, {"when": "after", **self.task.compare()}]
        return Trained(notes=tuple(self.said), tables=tables)

    @contextlib.contextmanager
    def _folder(self) -> Iterator[Path]:
        named = self.wishes.folder()
        if named is not None:
            yield named
            return
        with tempfile.TemporaryDirectory(prefix="graftwork-") as folder:
            yield Path(folder)

    def _check(self, part: Read, where: str) -> None:
        check_part(part, where, {self.target.name: self.target})
        self._check_more(part, where)

    def _check_more(self, part: Read, where: str) -> None:
        check_tokens(self.known, part.inputs, part.rows, where)
        if self.target.kind in SWITCHES and part.labels is not None:
            check_switches(part.labels, part.rows, where)

    def _batches(self, stream: Stream) -> Iterator[Read]:
        """Go through a stream, and refuse what the model cannot learn from."""
        for part in parts_of(stream, inputs(self.model), self.target):
            self._check_more(part, stream.name)
            yield part

    def _head_stage(self, folder: Path) -> None:
        if not self.cached:
            for data in (self.data, self.validation):
                if isinstance(data, Samples):
                    for part in data.batches(self.fit.batch):
                        self._check(part, data.name)
            self._run("head", self.model, self.data, self.validation, self.fit, folder / "head", [])
            return
        trunk, head = self.halves.trunk(), self.halves.head()
        given = self._features(trunk, self.data, folder / "features")
        tried = None if self.validation is None else self._features(trunk, self.validation, folder / "validation")
        if self.wishes.head == "logistic":
            part = given.take(given.rows)
            last = own_calls(head)[-1]
            rows = _given_to(last, head, part.inputs[COLUMN], self.fit.batch)
            told = solved(last.operation, rows, np.asarray(part.labels), part.weights, self.wishes.penalty)
            self.said.append(told)
            self.rows.append({"stage": "head", "epoch": 0, **self._measured(self._judge(head), given, tried)})
            return
        self._run("head", head, given, tried, self.fit, folder / "head", [])

    def _features(self, trunk: Any, data: Any, folder: Path) -> Any:
        if not isinstance(data, Samples):
            raise OptionError(f"{data.name} yields batches, of which nothing can be kept; use cache=False")

        def tell(done: int, count: int) -> None:
            if self.progress is not None:
                self.progress(f"features: {done:,} of {count:,} samples", done, count)

        return features(
            trunk,
            data,
            batch=self.fit.batch,
            folder=folder,
            device=self.fit.device,
            precision=self.fit.mixed_precision,
            check=lambda part: self._check(part, data.name),
            tell=tell,
        )

    def _fine_stage(
        self, folder: Path, number: int, layers: Sequence[Any], starts: Mapping[int, np.ndarray[Any, Any]]
    ) -> None:
        self._unfreeze(layers)
        name = f"fine-{number}"
        fit = replace(
            self.fit,
            epochs=self.wishes.fine_epochs or self.fit.epochs,
            learning_rate=self._rate(number),
            log=_beside(self.fit.log, name),
            tensorboard=self.fit.tensorboard / name if self.fit.tensorboard is not None else None,
        )
        anchors = [starts.get(id(variable)) if variable.trainable else None for variable in self.model.variables]
        self._run(name, self.model, self.data, self.validation, fit, folder / name, anchors)

    def _rate(self, number: int) -> float:
        said = self.wishes.fine_learning_rate
        if said is not None:
            return float(said[number - 1] if isinstance(said, Sequence) else said)
        usual = self.fit.made_optimizer().get_config()["learning_rate"]
        if not isinstance(usual, float | int):
            raise OptionError(
                "the optimizer's learning rate is a schedule; say that of later stages (fine_learning_rate)"
            )
        return float(usual) * 0.1**number

    def _run(
        self, name: str, model: Any, data: Any, validation: Any, fit: Fit, folder: Path, anchors: Sequence[Any]
    ) -> None:
        with placed(model, fit) as working:
            pairs = [(v, start) for v, start in zip(working.variables, anchors, strict=False) if start is not None]
            with anchored(pairs, self.wishes.l2_sp):
                self._compile(working, fit)
                history = run(
                    working,
                    self._feed(working, data, fit.seed),
                    fit,
                    validation=None if validation is None else self._feed(working, validation, None),
                    folder=folder,
                    key=self.key,
                    progress=self.progress,
                    verb=name,
                )
        self.rows += [{"stage": name, "epoch": place, **row} for place, row in enumerate(history.epochs, 1)]
        self.said.append(_told(name, history, fit))

    def _compile(self, model: Any, fit: Fit) -> None:
        model.compile(
            optimizer=fit.made_optimizer(),
            loss=self.aim.made_loss(),
            weighted_metrics=self.aim.made_metrics(),
            jit_compile="auto" if fit.jit is None else fit.jit,
        )

    def _feed(self, model: Any, data: Any, seed: int | None) -> Any:
        if isinstance(data, Samples):
            return dataset(model, data, self.fit.batch, seed=seed)
        return streamed(partial(self._batches, data), partial(fitted, model))

    def _judge(self, model: Any) -> Any:
        """Return a model of the same layers that is compiled."""
        found = alias(model)
        self._compile(found, self.fit)
        return found

    def _measured(self, judge: Any, data: Any, validation: Any) -> dict[str, float]:
        """Return loss and metrics on data, and on that for validation."""
        found: dict[str, float] = {}
        for word, each in (("", data), ("val_", validation)):
            if each is not None:
                feed = self._feed(judge, each, None)
                with failing(self.model.name, f"while it is measured on {each.name}"), raised_as_it_was(feed):
                    said = judge.evaluate(feed, verbose=0, return_dict=True)
                found |= {f"{word}{name}": float(value) for name, value in said.items()}
        return found

    # Between the original and the result --------------------------------------------------------------------------------

    def _interpolate(self, start: Sequence[Any]) -> list[dict[str, float]]:
        """Give the model weights between those before layers were unfrozen and those at the end; return what was measured on the way."""
        end, judge = values_of(self.model), self._judge(self.model)

        def measure() -> dict[str, float]:
            found = self._measured(judge, None, self.validation)
            old = self.task.compare() if self.task is not None else {}
            return found | {f"old_{name}": value for name, value in old.items()}

        rows = curve(self.model, start, end, measure) if self.validation is not None or self.task is not None else []
        share = self.wishes.interpolate
        if share == "best":
            share = min(rows, key=lambda row: row["val_loss"])["share"]
        between(self.model, start, end, float(share))
        self.said.append(
            f"weights are {float(share):.3g} of the way from before layers were unfrozen (0) to the end of training (1)"
        )
        return rows


def _doubtful(member: Member, what: str, port: str | None) -> str:
    """Return what to say of a head on values without bounds: features, or answers to the old task."""
    said = (
        f"{member.name} ends in {what}; if these are answers to its old task (logits, values), put the head below them"
    )
    with contextlib.suppress(OptionError):
        return f"{said}: at={foot_of(member.model, port).address!r}"
    return f"{said} (at)"


def _beside(path: Path | None, word: str) -> Path | None:
    return None if path is None else path.with_name(f"{path.stem}-{word}{path.suffix}")


def _given_to(call: Any, head: Any, values: np.ndarray[Any, Any], batch: int) -> Any:
    """Return what a call (a Keras node) in a head is given for features."""
    below = keras.Model(graph_of(head)._inputs_struct, call.input_tensors)
    found = [below(values[first : first + batch]) for first in range(0, len(values), batch)]
    return np.concatenate([keras.ops.convert_to_numpy(keras.tree.flatten(each)[0]) for each in found])


def _told(name: str, history: History, fit: Fit) -> str:
    """Return how a stage went, as a sentence."""
    row = history.epochs[history.best]
    measured = ", ".join(f"{key} {value:.4g}" for key, value in row.items() if key != "learning_rate")
    resumed = f", gone on with after {history.resumed}" if history.resumed else ""
    stopped = ", ended early" if history.stopped else ""
    return f"{name}: epoch {history.best + 1} of {len(history.epochs)} ({measured}){stopped}{resumed}"
