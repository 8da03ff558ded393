"""What a drawing of a model shows, before anything has a place: parts, links between them, and what each part says."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase

from graftwork.architecture.compare import is_operation
from graftwork.architecture.layer import Layer, walk
from graftwork.architecture.layout import layout
from graftwork.architecture.variables import children, own_variables
from graftwork.architecture.wiring import Shape, Wiring, wire
from graftwork.errors import StoreError, UnknownNameError
from graftwork.report.drawing.folding import Folding, Piece
from graftwork.report.drawing.words import classes_in_turn, clean, settings, several, shape_text
from graftwork.tensor import Role, TensorSpec

MAX_PARTS = 20_000
"""Boxes of one drawing; more could not be read and would take minutes to place."""


class Kind(StrEnum):
    """What a part is."""

    INPUT = "input"
    OUTPUT = "output"
    LAYER = "layer"
    FOLD = "fold"  # several layers that share a box
    MODEL = "model"


class Frozen(StrEnum):
    """How much of a part is not trained."""

    NO = "no"
    PARTLY = "partly"
    YES = "yes"


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One box of the drawing.

    Attributes:
        kind: What it is.
        title: The first line: the name, of the first of several layers.
        until: The name of the last of several layers.
        class_name: The class, or what stands for it; empty for ends.
        details: What else it says, a line each.
        layers: Nested paths of the layers that it stands for (``"resnet50/conv1_conv"``), without those inside `inside`.
        frozen: How much of it is not trained.
        weights: Whether it holds any.
        use: Which use of a layer it is, and of how many.
        hint: What is told about it on pointing.
        inside: The graph of a model that is drawn open.
    """

    kind: Kind
    title: str
    class_name: str = ""
    details: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    frozen: Frozen = Frozen.NO
    weights: bool = False
    use: tuple[int, int] = (1, 1)
    hint: str = ""
    inside: "Diagram | None" = None
    until: str = ""


@dataclass(frozen=True, slots=True)
class Link:
    """One tensor that one part takes from another.

    Attributes:
        source: The number of the part that makes it.
        output: Which of its outputs it is.
        target: The number of the part that takes it.
        entry: Which of the target's inputs it is.
        shape: The tensor's shape as text; empty where it is not known.
    """

    source: int
    output: int
    target: int
    entry: int
    shape: str


@dataclass(frozen=True, slots=True, eq=False)
class Diagram:
    """The graph of one model.

    Attributes:
        parts: In an order of computation.
        links: What connects them.
        entries: The parts that stand for the model's inputs, in their order.
        exits: The parts whose tensors are the model's outputs, each with which of its outputs, in their order.
    """

    parts: tuple[Part, ...]
    links: tuple[Link, ...]
    entries: tuple[int, ...]
    exits: tuple[tuple[int, int], ...]

    def everywhere(self) -> Iterator[Part]:
        """Yield every part, those inside models after the model."""
        for part in self.parts:
            yield part
            if part.inside is not None:
                yield from part.inside.everywhere()


@dataclass(frozen=True, slots=True)
class Numbers:
    """Parameters of a model, by what training does to them.

    Attributes:
        total: All of them.
        trainable: Those that training changes.
        frozen: Those that it leaves alone, because a layer says so or because they are quantized.
        statistics: Moving averages, which are not trained but change while training.
        below: All of them, by nested path of the layer or model that holds them.
    """

    total: int
    trainable: int
    frozen: int
    statistics: int
    below: Mapping[str, int]


def count(root: Layer, specs: Mapping[str, TensorSpec], *, keras2: bool = False) -> Numbers:
    """Return a model's parameters, from its configuration and the specs of its tensors."""
    known = {variable.name: variable.trainable for variable in layout(root, keras2=keras2).variables}
    still = {path for path, _, frozen in _with_frozen(root) if frozen}
    below: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    for name, spec in specs.items():
        if spec.role not in (Role.WEIGHT, Role.STATISTIC, Role.QUANTIZED):
            continue
        steps = name.split("/")
        above = ["/".join(steps[:k]) for k in range(1, min(len(steps), 128))]
        below.update(dict.fromkeys(above, spec.size))
        if spec.role is Role.STATISTIC:
            kinds["statistics"] += spec.size
        elif spec.role is Role.QUANTIZED or not known.get(name, not still.intersection(above)):
            kinds["frozen"] += spec.size
        else:
            kinds["trainable"] += spec.size
    return Numbers(kinds.total(), kinds["trainable"], kinds["frozen"], kinds["statistics"], below)


def _with_frozen(root: Layer) -> Iterator[tuple[str, Layer, bool]]:
    """Yield every layer below a model with its path and whether it or a model around it is frozen."""
    stack = [("", root, root.config.get("trainable") is False)]
    while stack:
        path, layer, frozen = stack.pop()
        for inner in layer.graph.layers if layer.graph else ():
            below = f"{path}/{inner.name}" if path else inner.name
            item = (below, inner, frozen or inner.config.get("trainable") is False)
            yield item
            stack.append(item)


@dataclass(slots=True, eq=False)
class _Open:
    """A model that is drawn open."""

    path: str
    layer: Layer
    wiring: Wiring
    frozen: bool
    inner: dict[int, "_Open"]
    folding: Folding = field(init=False)


def describe(
    root: Layer,
    numbers: Numbers | None,
    *,
    collapse: Sequence[str] = (),
    expand: Sequence[str] = (),
    depth: int = 1,
    boxes: int | None = 30,
) -> Diagram:
    """Return what a drawing of a model shows.

    Args:
        root: The model.
        numbers: Its parameters, where they are known.
        collapse: Nested paths (with ``*``) of models that stay one box.
        expand: Nested paths (with ``*``) of layers that are seen and of models that are opened, however deep.
        depth: How many levels of models in models are opened; 0 opens none.
        boxes: Layers share boxes where there would be more than this; None gives each its own.

    Raises:
        StoreError: If connections lead nowhere or in a circle, or there is too much to draw.
        UnknownNameError: If a path fits nothing.
    """
    return _Describer(root, numbers, collapse, expand, depth, boxes).describe()


class _Describer:
    def __init__(
        self,
        root: Layer,
        numbers: Numbers | None,
        collapse: Sequence[str],
        expand: Sequence[str],
        depth: int,
        boxes: int | None,
    ) -> None:
        self._root, self._numbers, self._depth, self._boxes = root, numbers, depth, boxes
        layers = [(path, layer.graph is not None) for path, layer in walk(root)]
        self._shut = _matching(collapse, [path for path, model in layers if model], "model to collapse")
        self._seen = _matching(expand, [path for path, _ in layers], "layer to expand")
        self._above = {"/".join(path.split("/")[:k]) for path in self._seen for k in range(1, path.count("/") + 1)}
        self._opened: list[_Open] = []

    def describe(self) -> Diagram:
        if self._root.graph is None:
            return self._opaque()
        top = self._open("", self._root, self._root.config.get("trainable") is False, 0)
        self._unfold()
        return self._diagram(top, outermost=True)

    def _open(self, path: str, layer: Layer, frozen: bool, level: int, wiring: Wiring | None = None) -> _Open:
        wiring = wiring or wire(layer, level)
        inner: dict[int, _Open] = {}
        pinned: set[int] = set()
        foldable: list[bool] = []
        made = _Open(path, layer, wiring, frozen, inner)
        self._opened.append(made)
        for number_, node in enumerate(wiring.nodes):
            below = _join(path, node.layer.name)
            model = node.layer.graph is not None
            foldable.append(not (model or node.is_input or len(node.layer.calls) > 1))
            if below in self._seen:
                pinned.add(number_)
            wanted = level < self._depth or below in self._seen or below in self._above
            if model and node.call == 0 and wanted and below not in self._shut:
                inner[number_] = self._open(
                    below, node.layer, frozen or _is_frozen(node.layer), level + 1, wiring.inner.get(node.place)
                )
        preceding = [{source for source, _ in node.inputs} for node in wiring.nodes]
        ends = {source for _, (source, _) in wiring.outputs}
        shapes = wiring.shapes
        made.folding = Folding(
            preceding,
            foldable,
            ends,
            pinned,
            (lambda v: _resolution(shapes.get((v, 0))), lambda v: shapes.get((v, 0))),
            lambda v: _is_flat(shapes.get((v, 0))),
            [node.layer.class_name for node in wiring.nodes],
        )
        return made

    def _unfold(self) -> None:
        """Open all graphs level by level, in turns, as long as there is room for the next level."""
        if self._boxes is None:
            for graph in self._opened:
                graph.folding.open_all()
        else:
            taken = sum(len(graph.folding.pieces) for graph in self._opened)
            waiting, first = self._opened, True
            while waiting:
                still: list[_Open] = []
                for graph in waiting:
                    opened = graph.folding.opened()
                    more = len(opened) - len(graph.folding.pieces)
                    # An open model with one box in it would tell nothing, so the first level only has to fit by itself.
                    if more and (len(opened) if first else taken + more) <= self._boxes:
                        graph.folding.pieces = opened
                        taken += more
                        still.append(graph)
                waiting, first = still, False
        total = sum(len(graph.folding.pieces) for graph in self._opened)
        if total > MAX_PARTS:
            raise StoreError(
                f"a drawing of {self._root.class_name} {clean(self._root.name)[:80]!r} would have {total:,} boxes, more than "
                f"{MAX_PARTS:,}; collapse models or let layers share boxes"
            )

    def _diagram(self, graph: _Open, *, outermost: bool) -> Diagram:
        wiring = graph.wiring
        pieces = graph.folding.pieces
        owner = {node: k for k, piece in enumerate(pieces) for node in piece.nodes()}
        parts = [self._part(graph, piece) for piece in pieces]
        links: list[Link] = []
        for number_, node in enumerate(wiring.nodes):
            target = owner[number_]
            for entry, (source, output) in enumerate(node.inputs):
                if owner[source] != target:
                    shape = shape_text(wiring.shapes.get((source, output)))
                    links.append(Link(owner[source], output, target, entry if node.layer.graph else 0, shape))
        exits = [(owner[source], output) for _, (source, output) in wiring.outputs]
        if outermost:
            for (key, tensor), (source, output) in zip(wiring.outputs, list(exits), strict=True):
                shape = shape_text(wiring.shapes.get(tensor))
                name = key if not key.isdigit() else "output" if len(exits) == 1 else f"output {key}"
                links.append(Link(source, output, len(parts), 0, shape))
                parts.append(Part(Kind.OUTPUT, clean(name), hint=f"output {clean(key)}"))
        entries = tuple(owner[source] for _, (source, _) in wiring.inputs)
        return Diagram(tuple(parts), tuple(dict.fromkeys(links)), entries, tuple(exits))

    def _part(self, graph: _Open, piece: Piece) -> Part:
        if piece.parts:
            return self._fold(graph, piece)
        node = graph.wiring.nodes[piece.last]
        layer, path = node.layer, _join(graph.path, node.layer.name)
        shape = shape_text(graph.wiring.shapes.get((piece.last, 0)))
        if node.is_input:
            dtype = layer.config.get("dtype")
            hint = f"{path}: input" + (f" of {dtype}" if isinstance(dtype, str) else "")
            paths = (path,) if node.place >= 0 else ()
            return Part(Kind.INPUT, clean(layer.name or "input"), layers=paths, hint=clean(hint))
        inner = graph.inner.get(piece.last)
        uses = max(1, len(layer.calls))
        frozen = Frozen.YES if graph.frozen or _is_frozen(layer) else self._partly(layer)
        parameters = self._parameters([path])
        if layer.graph is not None:
            below = [x for _, x in walk(layer) if x.class_name != "InputLayer"]
            told = [several(len(below), "layer"), *parameters]
            details = [" · ".join(told)] if inner else told
        else:
            details = [settings(layer)]
        return Part(
            Kind.LAYER if layer.graph is None else Kind.MODEL,
            title=clean(layer.name),
            class_name=clean(layer.class_name),
            details=tuple(line for line in details if line),
            layers=(path,),
            frozen=frozen,
            weights=_holds_weights(layer),
            use=(node.call + 1, uses),
            hint=_hint(path, layer.class_name, parameters, shape),
            inside=self._diagram(inner, outermost=False) if inner else None,
        )

    def _fold(self, graph: _Open, piece: Piece) -> Part:
        numbers = piece.nodes()
        layers = [graph.wiring.nodes[k].layer for k in numbers]
        paths = [_join(graph.path, layer.name) for layer in layers]
        classes = [layer.class_name for layer in layers]
        if piece.forks() or len(layers) > 12:
            common = Counter(classes).most_common(3)
            listed = ", ".join(f"{n} {clean(name)}" for name, n in common) + (", …" if len(set(classes)) > 3 else "")
        else:
            listed = classes_in_turn(classes)
        parameters = self._parameters(paths)
        told = [f"{clean(layer.name)} {clean(layer.class_name)} {settings(layer)}".strip() for layer in layers[:40]]
        return Part(
            Kind.FOLD,
            title=clean(layers[0].name),
            until=clean(layers[-1].name),
            class_name=several(len(layers), "layer"),
            details=(listed, *parameters),
            layers=tuple(paths),
            frozen=_together([graph.frozen or _is_frozen(layer) for layer in _weighty(layers)]),
            weights=any(_holds_weights(layer) for layer in layers),
            hint="\n".join([*told, "…"] if len(layers) > 40 else told),
        )

    def _parameters(self, paths: Sequence[str]) -> list[str]:
        if self._numbers is None:
            return []
        found = sum(self._numbers.below.get(path, 0) for path in paths)
        return [several(found, "parameter")] if found else []

    def _partly(self, layer: Layer) -> Frozen:
        if layer.graph is None:
            return Frozen.NO
        below = {id(x): frozen for _, x, frozen in _with_frozen(layer)}
        inside = [x for _, x in walk(layer) if x.graph is None]
        return _together([below[id(x)] for x in _weighty(inside)])

    def _opaque(self) -> Diagram:
        """A model of a class of its own says nothing of its inside."""
        root = self._root
        parameters = [several(self._numbers.total, "parameter")] if self._numbers else []
        frozen = Frozen.YES if _is_frozen(root) else Frozen.NO
        details = ("its layers are not in the file", *parameters)
        name = clean(root.name or root.class_name)
        part = Part(Kind.MODEL, name, clean(root.class_name), details, frozen=frozen, weights=True, hint=name)
        return Diagram((part,), (), (), ())


def _matching(patterns: Sequence[str], paths: Sequence[str], what: str) -> Set[str]:
    found: set[str] = set()
    for pattern in patterns:
        hit = {path for path in paths if path == pattern or fnmatchcase(path, pattern)}
        if not hit:
            raise UnknownNameError(what, pattern, paths)
        found |= hit
    return found


def _join(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


def _is_frozen(layer: Layer) -> bool:
    return layer.config.get("trainable") is False


def _holds_weights(layer: Layer) -> bool:
    if layer.graph is not None:
        return any(_holds_weights(inner) for inner in layer.graph.layers)
    if is_operation(layer):
        return False
    return bool(own_variables(layer) or children(layer)) or own_variables(layer) is None


def _weighty(layers: Sequence[Layer]) -> Sequence[Layer]:
    """Return the layers that have weights to freeze, or all where none has."""
    return [layer for layer in layers if _holds_weights(layer)] or layers


def _together(frozen: Sequence[bool]) -> Frozen:
    return Frozen.YES if frozen and all(frozen) else Frozen.PARTLY if any(frozen) else Frozen.NO


def _hint(path: str, class_name: str, parameters: Sequence[str], shape: str) -> str:
    told = [f"{clean(path)}: {clean(class_name)}", *parameters, *([f"gives {shape}"] if shape else [])]
    return ", ".join(told)


def _resolution(shape: Shape | None) -> Shape | None:
    """Return what layers of one stage of an image network have in common, as far as it can be told: all sizes but the channels."""
    return None if shape is None or _is_flat(shape) else shape[1:-1]


def _is_flat(shape: Shape | None) -> bool:
    return shape is not None and len(shape) <= 2
