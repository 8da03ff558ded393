"""Statistics of BatchNormalization layers, re-estimated on data."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, ClassVar

from pydantic import Field

from graftwork.compose.base import Composed, Member, Progress, Trained, verb
from graftwork.compose.ports import graph_of
from graftwork.data import Samples
from graftwork.errors import DataError
from graftwork.models.configuration import layers_of
from graftwork.models.lazy import keras
from graftwork.training.fed import Fed
from graftwork.training.matching import matched
from graftwork.training.placing import check_device, on_device
from graftwork.training.recalibrating import KEPT_BYTES, outlook, recalibrate


@verb
class Recalibrate(Fed):
    """Give BatchNormalization layers the means and variances that they have on data, as merged weights need it.

    Both are exact: over all samples and positions, in inference mode, once every layer before has its own. Neither the size of batches nor
    the order of samples plays a part, labels are not needed, and no other weight changes.
    """

    kind: ClassVar[str] = "recalibrate"
    takes: ClassVar[tuple[str, ...]] = ("model",)
    fed: ClassVar[tuple[str, ...]] = ("data",)

    data: Any
    """Samples like those that the model is for; labels are not looked at."""

    layers: str | list[str] | None = None
    """Paths of layers to keep to, with * and the like; a nested model stands for all its layers. By default all BatchNormalization."""

    normalizations: bool = False
    """Whether adapted Normalization layers get new statistics as well."""

    batch: int = Field(32, ge=1)
    """How many samples are run at a time; it does not change the result."""

    kept: float = Field(KEPT_BYTES / 2**30, ge=0)
    """GiB of what layers give that are kept on the disk between passes; 0 computes it anew in each."""

    device: str | None = None
    """Where the model runs: `cpu`, `gpu:1`; by default where Keras does."""

    def compose(self, members: Sequence[Member]) -> Composed:
        """Look at what would be done; see `Verb.compose`."""
        check_device(self.device)
        model = members[0].model
        samples = self.given().data
        if not isinstance(samples, Samples):
            raise DataError(
                f"{samples.name} yields batches, perhaps others each time; statistics take several passes over the same samples: give "
                "arrays, a file or a directory"
            )
        if graph_of(model) is not None:
            samples = matched(samples, model)
        found = outlook(model, layers=self.layers, normalizations=self.normalizations)
        count = sum(len(group) for group in found.layers)
        layers = "1 layer gets" if count == 1 else f"{count:,} layers get"
        passes = f"{found.passes} pass{'es' if found.passes > 1 else ''}"
        rows = [{"pass": place, "layers": ", ".join(group)} for place, group in enumerate(found.layers, 1)]

        def train(progress: Progress | None) -> Trained:
            def tell(number: int, passes: int, done: int) -> None:
                if progress is not None:
                    done_in_all = (number - 1) * len(samples) + done
                    progress(f"recalibrate: pass {number}/{passes}", done_in_all, passes * len(samples))

            with on_device(self.device):
                made, report = recalibrate(
                    model,
                    samples,
                    batch=self.batch,
                    layers=self.layers,
                    normalizations=self.normalizations,
                    kept_bytes=int(self.kept * 2**30),
                    compiled=False,
                    progress=tell,
                )
            for variable, value in zip(model.variables, made.variables, strict=True):
                variable.assign(keras.ops.convert_to_numpy(value))
            for layer in layers_of(model):
                if isinstance(layer, keras.layers.Normalization):
                    layer.finalize_state()  # it computes with constants made of its variables
            return Trained(notes=report.notes, tables={"recalibrated": [asdict(row) for row in report.layers]})

        return Composed(
            model=model,
            train=train,
            notes=(
                f"{layers} new statistics from {len(samples):,} samples, in {passes} over them",
                *found.notes,
            ),
            tables={"passes": rows},
        )
