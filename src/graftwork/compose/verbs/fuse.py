"""Features from inside several models, under a new head."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from graftwork.compose.base import Composed, Member, Verb, verb
from graftwork.compose.heads import HeadSpec, as_head
from graftwork.compose.inputs import InputMode, feeds
from graftwork.compose.joining import Trunk, joined, kept_still
from graftwork.compose.naming import Names
from graftwork.compose.ports import Port, describe, graph_of, inputs, outputs, packed
from graftwork.compose.verbs.extract import Extract
from graftwork.errors import MismatchError, OptionError, UnknownNameError
from graftwork.models.lazy import keras
from graftwork.tensor import FLOATS

Pool = Literal["auto", "gap", "gmp", "flatten", "none"]
"""What becomes of the positions of a feature: averaged where there are some, averaged, the largest taken, all kept in a row, left alone."""

Address = str | list[str]
"""The address of a tensor, or several."""


@verb
class Fuse(Verb):
    """Put a new head on features from inside several models, to be trained.

    Of each model, all that leads to its features is kept, with its weights; the rest is left out. Features with positions (images,
    sequences) are pooled, all are concatenated and go through the head. The models stay as they are, unless `freeze` is off.
    """

    kind: ClassVar[str] = "fuse"

    taps: list[Address] | dict[str, Address]
    """Which features: for each model, in order or by name, the address of a tensor (`global_pool`, `encoder/block_2`) or several."""

    head: HeadSpec
    """A number of units (softmax; sigmoid for one), a layer, a model, or a list of these."""

    hidden: Sequence[int] = ()
    """Units of Dense layers with relu before the head."""

    activation: str | None = None
    """The activation of the head, where it is a number of units: `linear` for values without bounds."""

    pool: Pool | Mapping[str, Pool] = "auto"
    """What becomes of positions, for all models or by name: `auto` and `gap` average over them, `gmp` takes the largest, `flatten` keeps
    all in a row, `none` leaves features alone."""

    freeze: bool = True
    """Keep the models' weights, and the statistics of their BatchNormalization, as they are."""

    inputs: InputMode = "shared"
    """`shared` where the models take the same; `separate` where each has inputs of its own."""

    inline: bool = False
    """Put the layers of all models in one graph, named after their model, instead of each model as one layer."""

    name: str = "fusion"
    """What the result is called."""

    def compose(self, members: Sequence[Member]) -> Composed:
        """Make the fusion; see `Verb.compose`."""
        names = Names([self.name])
        taps = self._taps(members)
        notes: list[str] = []
        rows: list[dict[str, Any]] = []
        pieces: list[Member] = []
        trunks: list[Trunk] = []
        for member in members:
            found = Extract(at=taps[member.name], name=member.name).compose([member])
            notes += found.notes
            layers = []
            for address, port in zip(taps[member.name], outputs(found.model).values(), strict=True):
                where = f"{address!r} of {member.name}"
                layer = _pooling(self._pool(member.name), port, where, _channels(found.model, port, where))
                layers.append(layer)
                rows.append(_row(member.name, address, port, layer))
            run = _runner(found, layers)
            pooled = _pooled(found.model, layers)
            model, said = kept_still(pooled) if self.freeze else (pooled, ())
            notes += [f"{member.name}: {each}" for each in said]
            model.name = names.fresh(member.name)
            pieces.append(replace(member, model=model))
            trunks.append(Trunk(name=member.name, model=model, run=run))
        made = joined(
            trunks,
            feeds(pieces, names, self.inputs),
            lambda value: as_head(self.head, value, names, hidden=self.hidden, activation=self.activation),
            names,
            flat=self.inline,
            name=self.name,
        )
        return replace(made, notes=(*notes, *made.notes), tables={"features": rows})

    def _taps(self, members: Sequence[Member]) -> dict[str, list[str]]:
        """Return the addresses of each member's features."""
        if isinstance(self.taps, Mapping):
            known = [member.name for member in members]
            for name in self.taps:
                if name not in known:
                    raise UnknownNameError("model (under `taps`)", name, known)
            missing = [name for name in known if name not in self.taps]
            if missing:
                raise OptionError(f"`taps` says nothing of {', '.join(missing)}; name the features of every model")
            found = {name: self.taps[name] for name in known}
        else:
            if len(self.taps) != len(members):
                raise OptionError(
                    f"`taps` has {len(self.taps)} entries for {len(members)} models; one address, or a list, for each"
                )
            found = {member.name: address for member, address in zip(members, self.taps, strict=True)}
        return {name: [address] if isinstance(address, str) else list(address) for name, address in found.items()}

    def _pool(self, member: str) -> Pool:
        if not isinstance(self.pool, Mapping):
            return self.pool
        return self.pool.get(member, "auto")


def _pooled(model: Any, layers: Sequence[Any]) -> Any:
    """Return a model whose outputs are pooled inside it, where the masks of sequences are known."""
    names = Names(operation.name for operation in graph_of(model)._operations)
    tensors = []
    for layer, (name, port) in zip(layers, outputs(model).items(), strict=True):
        if layer is not None:
            layer.name = names.fresh(f"{name}_{layer.name}")
        tensors.append(layer(port.tensor) if layer is not None else port.tensor)
    return keras.Model(graph_of(model)._inputs_struct, tensors if len(tensors) > 1 else tensors[0], name=model.name)


def _runner(found: Composed, layers: Sequence[Any]) -> Callable[[Mapping[str, Any]], list[Any]] | None:
    """Return what gives a model's features, taken from the whole model; None where steps are masked, which only graphs know."""
    reference, ports = found.reference, outputs(found.model).values()
    masked = any(getattr(port.tensor, "_keras_mask", None) is not None for port in ports)
    if reference is None or masked:
        return None
    struct, order = graph_of(found.model)._inputs_struct, list(inputs(found.model))

    def run(given: Mapping[str, Any]) -> list[Any]:
        values = keras.tree.flatten(reference(packed(struct, {name: given[name] for name in order})))
        return [layer(value) if layer is not None else value for layer, value in zip(layers, values, strict=True)]

    return run


def _pooling(pool: Pool, port: Port, where: str, channels: str) -> Any:
    """Return the layer that takes the positions off a feature; None where it has none."""
    rank = len(port.shape) - 2
    if port.dtype not in FLOATS:
        raise MismatchError(
            f"{where} is {describe(port.shape, port.dtype)}, which are no floating-point numbers, so no features"
        )
    if rank == 0 or (rank < 0 and pool == "none"):
        return None
    if pool == "flatten":
        return keras.layers.Flatten(data_format=channels, dtype="float32", name="flatten")
    if pool == "none" or not 1 <= rank <= 3:
        raise MismatchError(
            f"{where} is {describe(port.shape, port.dtype)}, but beside other features one row of values per example is needed",
            advice='pool it: pool="gap", "gmp" or "flatten"'
            if 1 <= rank <= 3
            else 'pool="flatten" would lay it in a row',
        )
    kind, word = ("Max", "max") if pool == "gmp" else ("Average", "average")
    return getattr(keras.layers, f"Global{kind}Pooling{rank}D")(data_format=channels, dtype="float32", name=word)


def _channels(model: Any, port: Port, where: str) -> str:
    """Return where the channels of a feature stand, which the layers of its model say."""
    found = {
        layer.data_format for layer in model._flatten_layers() if len(port.shape) > 3 and hasattr(layer, "data_format")
    }
    if len(found) > 1:
        raise OptionError(
            f"{where}: layers of the model disagree on where channels stand ({', '.join(sorted(found))}), so it cannot be pooled"
        )
    return str(next(iter(found), "channels_last"))


def _row(member: str, address: str, port: Port, layer: Any) -> dict[str, Any]:
    shape = port.shape if layer is None else tuple(layer.compute_output_shape(port.shape))
    if shape[-1] is None:
        raise MismatchError(
            f"{address!r} of {member} is {describe(port.shape, port.dtype)}, which has no fixed number of values",
            advice='pool it: pool="gap" or "gmp"',
        )
    return {
        "model": member,
        "tap": address,
        "shape": list(port.shape[1:]),
        "pooling": type(layer).__name__ if layer else "",
        "values": shape[-1],
    }
