"""A model's graph as an SVG drawing, from its configuration alone.

`diagram` says what is drawn, `placing` and `layered` where, `svg` how it is written.
"""

from collections.abc import Sequence

from graftwork.architecture.layer import walk
from graftwork.errors import OptionError, StoreError
from graftwork.report.drawing.diagram import count, describe
from graftwork.report.drawing.placing import Direction, place
from graftwork.report.drawing.svg import to_svg
from graftwork.report.drawing.words import clean, number, several
from graftwork.stores.base import Header, Reader


def draw(
    source: Reader | Header,
    *,
    collapse: Sequence[str] = (),
    expand: Sequence[str] | None = None,
    depth: int = 1,
    boxes: int | None = 30,
    direction: Direction = "down",
) -> str:
    """Return a drawing of a model's graph as SVG text; the same model gives the same text.

    Models among the layers are drawn as clusters around their layers. Where a drawing would have more than `boxes` boxes, layers
    of one stage, block or run share one.

    Args:
        source: An open source, or what it says of itself; then the numbers of parameters are left out.
        collapse: Nested paths of models that stay one box (``"resnet50"``, ``"encoder/*"``).
        expand: Nested paths of layers that are seen and of models that are opened, whatever `depth` and `boxes` say.
        depth: How many levels of models in models are opened; 0 draws each as one box.
        boxes: How many boxes are enough to make layers share them; None gives each layer its own.
        direction: ``"down"`` or ``"right"``.

    Raises:
        OptionError: If an option makes no sense.
        StoreError: If the source has no Keras configuration, or one that no model has.
        UnknownNameError: If a path of `collapse` or `expand` fits nothing.
    """
    if direction not in ("down", "right"):
        raise OptionError(f"a drawing runs 'down' or 'right', not {direction!r}")
    if depth < 0 or (boxes is not None and boxes < 1):
        raise OptionError(f"a drawing needs depth of at least 0 and boxes of at least 1, not {depth} and {boxes}")
    header = source if isinstance(source, Header) else source.header
    root = header.architecture
    if root is None:
        raise StoreError(
            f"{_name(source)} ({header.format}) holds no Keras configuration, so its layers' connections are not known; "
            "draw a whole saved model (.keras, or .h5 with its architecture)"
        )
    numbers = None if isinstance(source, Header) else count(root, source.specs(), keras2=header.config_kind == "keras2")
    diagram = describe(root, numbers, collapse=collapse, expand=expand or (), depth=depth, boxes=boxes)
    layers = sum(1 for _, layer in walk(root) if layer.class_name != "InputLayer")
    told = [clean(root.class_name)] + ([several(layers, "layer")] if root.graph else [])
    if numbers is not None:
        everything = ", all trainable" if numbers.total and numbers.trainable == numbers.total else ""
        told.append(several(numbers.total, "parameter") + everything)
        for amount, kind in (
            (numbers.trainable, "trainable"),
            (numbers.frozen, "frozen"),
            (numbers.statistics, "moving statistics"),
        ):
            if amount and not everything:
                told.append(f"{number(amount)} {kind}")
    return to_svg(place(diagram, direction), clean(root.name or root.class_name), " · ".join(told))


def _name(source: Reader | Header) -> str:
    if not isinstance(source, Header):
        return source.path.name
    return source.files[0].name if source.files else "the source"


__all__ = ["draw"]
