"""A signature of a SavedModel as a layer of Keras 3, whose ``.keras`` file contains the SavedModel."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from graftwork.errors import MismatchError, StoreError
from graftwork.models.savedmodel.folder import Folder, copied, held, hold
from graftwork.models.savedmodel.running import Running, Wanted

PACKAGE = "graftwork"

WIDER = {"float16": ("float32", "float64"), "bfloat16": ("float32", "float64"), "float32": ("float64",)}
"""What numbers can be cast to without loss."""


@keras.saving.register_keras_serializable(PACKAGE)
class SavedModelLayer(keras.layers.Layer):  # type: ignore[misc]
    """What a SavedModel's signature computes, frozen, as a layer.

    Gradients pass through it to what stands before. It has no weights that Keras knows of: the SavedModel's variables stay inside it,
    are not trained, and are not counted. It computes in the types that the signature has, whatever the policy, and always as the
    signature does: a signature for serving has Dropout off and BatchNormalization in inference mode, also during training.

    The layer holds a copy of the SavedModel in a temporary directory of the process. Every file that it is saved to contains the whole
    SavedModel, and saving or loading one takes the time and, for a while, the space to copy it. To load one, import this module or use
    `graftwork.load`.

    Args:
        signature: Which signature.
        inputs: Shape and dtype of each input, by name.
        outputs: For each output, by name: ``tensor`` and ``output`` as `running.Wanted` has them, ``shape`` and ``dtype``.
        digest: A digest of the SavedModel's files.
        **kwargs: What every layer takes.
    """

    def __init__(
        self,
        *,
        signature: str,
        inputs: Mapping[str, Mapping[str, Any]],
        outputs: Mapping[str, Mapping[str, Any]],
        digest: str,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{**kwargs, "dtype": "float32", "autocast": False})
        self.signature, self.digest = signature, digest
        self._ports = _Ports(inputs, outputs)
        self._held = _Held(held(digest))
        self.supports_jit = False
        self.built = True

    def get_config(self) -> dict[str, Any]:
        """Return what the layer is made with; the SavedModel itself is an asset."""
        inputs, outputs = self._ports.inputs, self._ports.outputs
        return {
            **super().get_config(),
            "signature": self.signature,
            "inputs": inputs,
            "outputs": outputs,
            "digest": self.digest,
        }

    def attach(self, folder: Folder, running: Running | None = None) -> None:
        """Give the layer its SavedModel.

        Args:
            folder: Its files.
            running: What runs, where it has been loaded already.

        Raises:
            StoreError: If it is another one.
        """
        if folder.digest != self.digest:
            raise StoreError(f"layer {self.name!r} was made of another SavedModel, or its files are damaged")
        self._held = _Held(folder, running)
        if running is not None:
            self._trunk = running.trunk

    def save_assets(self, store: str) -> None:
        """Write the SavedModel to a directory that becomes a part of a file."""
        copied(self._folder().path, Path(store))

    def load_assets(self, store: str) -> None:
        """Read the SavedModel from such a directory, which may be gone afterwards."""
        self.attach(hold(Path(store)))

    def compute_output_spec(self, inputs: Any) -> Any:
        """Return the outputs' shapes and types.

        Raises:
            MismatchError: If the inputs are not those of the signature.
        """
        self._checked(inputs)
        found = {
            key: keras.KerasTensor(tuple(port["shape"]), dtype=port["dtype"], name=key)
            for key, port in self._ports.outputs.items()
        }
        return found if len(found) > 1 else next(iter(found.values()))

    def call(self, inputs: Any) -> Any:
        """Return what the signature makes of tensors: one, or several by name.

        Raises:
            MismatchError: If the inputs are not those of the signature.
        """
        given = self._checked(inputs)
        found = self.running.run({key: self._cast(key, value) for key, value in given.items()})
        for key, tensor in found.items():
            tensor.set_shape(tuple(self._ports.outputs[key]["shape"]))
        return found if len(found) > 1 else next(iter(found.values()))

    @property
    def running(self) -> Running:
        """The SavedModel in TensorFlow, loaded when it is first needed."""
        if self._held.running is None:
            if keras.config.backend() != "tensorflow":
                raise StoreError(f"layer {self.name!r} runs in TensorFlow; start Python with KERAS_BACKEND=tensorflow")
            wanted = {
                key: Wanted(tensor=port["tensor"], output=port["output"], shape=tuple(port["shape"]))
                for key, port in self._ports.outputs.items()
            }
            self._held.running = Running(self._folder().path, self.signature, list(self._ports.inputs), wanted)
            self._trunk = (
                self._held.running.trunk
            )  # TensorFlow finds variables, tables and assets there when it exports
        return self._held.running

    def _folder(self) -> Folder:
        if self._held.folder is None:
            raise StoreError(
                f"layer {self.name!r} has no SavedModel: it was made of a configuration alone, or its file was loaded without its assets; "
                "load the whole .keras file"
            )
        return self._held.folder

    def _cast(self, key: str, value: Any) -> Any:
        value = keras.ops.convert_to_tensor(value) if not hasattr(value, "dtype") else value
        wanted, found = self._ports.inputs[key]["dtype"], keras.backend.standardize_dtype(value.dtype)
        return keras.ops.cast(value, wanted) if found != wanted else value

    def _checked(self, inputs: Any) -> dict[str, Any]:
        """Return the inputs by name, refusing such as do not fit."""
        ports = self._ports.inputs
        given = inputs if isinstance(inputs, Mapping) else {next(iter(ports)): inputs}
        if set(given) != set(ports):
            raise MismatchError(
                f"layer {self.name!r} takes {', '.join(map(repr, ports))} by name and was given {', '.join(map(repr, given))}"
            )
        for key, value in given.items():
            wanted, found = ports[key]["dtype"], keras.backend.standardize_dtype(value.dtype)
            if found != wanted and wanted not in WIDER.get(found, ()):
                raise MismatchError(
                    f"input {key!r} of layer {self.name!r} is {wanted} in its signature and was given {found}; cast it before"
                )
            shape = tuple(value.shape)
            sizes = list(zip(shape, ports[key]["shape"], strict=False))
            if len(shape) != len(ports[key]["shape"]) or any(a and b and a != b for a, b in sizes):
                raise MismatchError(
                    f"input {key!r} of layer {self.name!r} has the shape {tuple(ports[key]['shape'])} in its signature and was "
                    f"given {shape}"
                )
        return {key: given[key] for key in ports}


class _Ports:
    """Inputs and outputs, out of sight of Keras, which would make lists of its own of what layers hold."""

    def __init__(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        self.inputs: dict[str, dict[str, Any]] = {key: dict(port) for key, port in inputs.items()}
        self.outputs: dict[str, dict[str, Any]] = {key: dict(port) for key, port in outputs.items()}


class _Held:
    """The SavedModel's files and what runs, out of sight of Keras and TensorFlow, which would save what they find."""

    def __init__(self, folder: Folder | None, running: Running | None = None) -> None:
        self.folder, self.running = folder, running

    def __deepcopy__(self, memo: Any) -> "_Held":
        return _Held(self.folder)
