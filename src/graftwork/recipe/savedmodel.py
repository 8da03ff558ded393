"""Steps that work on SavedModels: what each is asked for. How they are done is told in `graftwork.models.savedmodel`."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from graftwork.models.combining import Combine
from graftwork.recipe.base import Name, as_tuple
from graftwork.recipe.checkpoints import Rules
from graftwork.recipe.declared import DeclaredStep, Names, Words

SAVEDMODEL_STEPS: dict[str, type["SavedModelStep"]] = {}
"""Every step that works on SavedModels, by its word."""


class SavedModelStep(DeclaredStep):
    """A step that works on SavedModels; a kind of it is a class below this one, and is listed when it is declared."""

    kind: ClassVar[str] = ""

    @classmethod
    def __pydantic_init_subclass__(cls, **_: object) -> None:
        """List the step."""
        SAVEDMODEL_STEPS[cls.kind] = cls


class SavedmodelLift(SavedModelStep):
    """Put the variables of a SavedModel or checkpoint into a Keras 3 model of the same architecture.

    Tensors meet by name: the same one, one with a prefix before it, or one with other numbers of layers; and those that an export of
    Keras 3 lists by their order. Every tensor of the model gets its values from one tensor of the same shape. What the model says then is
    compared with what the SavedModel's signature says.
    """

    kind: ClassVar[str] = "savedmodel_lift"
    takes: ClassVar[tuple[str, ...]] = ("source", "into")
    loads: ClassVar[bool] = True

    source: Name
    """The SavedModel or checkpoint."""
    into: Name
    """The model, which stays as it is; the result is another file."""
    map: Rules = ()
    """Rules ``OLD=NEW`` from names in the source to names in the model, where names do not tell."""
    partial: bool = False
    """Allow for tensors of the model that keep their values, and tensors of the source that go nowhere."""
    signature: str = "serving_default"
    """The signature of the SavedModel that the model is compared with."""
    check: bool = True
    """Whether the two are compared, and the result refused if they do not say the same."""


def _as_tensors(value: Any) -> Any:
    """Return names of tensors as a list; commas part them too."""
    if not value or not isinstance(value, str | list | tuple):
        return value or ()
    return tuple(name.strip() for text in as_tuple(value) for name in str(text).split(","))


Tensors = Annotated[tuple[str, ...], BeforeValidator(_as_tensors)]
"""Names of tensors; one alone, or several with commas between, need not be in a list."""


class SavedmodelBridge(SavedModelStep):
    """Make a Keras model of a SavedModel.

    One that Keras 2 saved with its configuration is rebuilt: a plain model, all of which can be trained. Any other becomes a frozen layer
    around one of its signatures, through which gradients pass; every file of it contains the whole SavedModel, and graftwork has to be
    installed where it is loaded.
    """

    kind: ClassVar[str] = "savedmodel_bridge"
    takes: ClassVar[tuple[str, ...]] = ("source",)
    loads: ClassVar[bool] = True

    source: Name
    """The SavedModel."""
    signature: str = "serving_default"
    """Which of its signatures."""
    at: Tensors = ()
    """Where to end: outputs of the signature, or tensors inside it, as ``savedmodel ls --tensors`` lists them; by default all outputs."""
    result: Literal["auto", "rebuild", "layer"] = "auto"
    """What comes out: ``rebuild`` for a plain model, ``layer`` for a frozen layer, ``auto`` for the first where it can be had."""
    name: str | None = None
    """What the model is called; by default as the SavedModel."""


class SavedmodelCombine(SavedModelStep):
    """Put several SavedModels into one servable: the signatures of all of them, side by side.

    A signature keeps its name where no other one has it, else it is ``label_signature``. Variables, tables, files and functions of the
    parts stay as they are, each part under its label.
    """

    kind: ClassVar[str] = "savedmodel_combine"
    relative: ClassVar[tuple[str, ...]] = ("examples",)

    models: Names
    """The SavedModels."""
    rename: Mapping[str, str] = Field(default_factory=dict)
    """Names of signatures in the result, by ``label.signature``."""
    default: str | None = None
    """Which signature is served where none is named: ``label.signature``, or a label; by default that of the first that has one."""
    examples: str | None = None
    """An ``.npz`` file with inputs for the comparison with the parts, by their names or by ``signature/input``; by default random ones."""


class SavedmodelChain(SavedModelStep):
    """Put SavedModels one behind the other: what one gives goes into the next.

    A single output goes to a single input; where a signature has several, those of the same name meet, and `connect` says what else. The
    result takes what the first takes and gives what the last one gives.
    """

    kind: ClassVar[str] = "savedmodel_chain"
    relative: ClassVar[tuple[str, ...]] = ("examples",)

    models: Names
    """The SavedModels, in this order."""
    connect: Mapping[str, str] = Field(default_factory=dict)
    """Which output goes to an input, by ``model.input``: ``{b.text: a.features}``; ``input`` makes it an input of the result."""
    signatures: Mapping[str, str] = Field(default_factory=dict)
    """Which signature of a SavedModel is called, by its label; by default the one for serving, or the only one."""
    examples: str | None = None
    """An ``.npz`` file with inputs for the comparison with the parts, by their names; by default random ones."""


class SavedmodelEnsemble(SavedModelStep):
    """Run SavedModels on the same input and combine what they give.

    Signatures with one output each are combined whatever it is called; where they have several, those of the same name are. Their numbers
    of classes must agree. Outputs of one kind are combined as they are; where some are logits and others probabilities, logits are turned
    into probabilities first. Computed in float32 (float64 where one of them is). NaN of a part stays NaN.
    """

    kind: ClassVar[str] = "savedmodel_ensemble"
    relative: ClassVar[tuple[str, ...]] = ("examples",)

    models: Names
    """The SavedModels."""
    combine: Combine | Mapping[str, Combine] = "mean"
    """How: mean, geometric (the mean of log-probabilities, normalised), median, max, min, product (of probabilities, normalised), vote
    (the share of parts for which a class is the likeliest, the first one where several are), concat; or one for each output."""
    weights: tuple[float, ...] | Mapping[str, float] | None = None
    """What each counts in a mean, a geometric mean or a vote: in their order, or by label. They are divided by their sum."""
    outputs: str | Mapping[str, str] = "auto"
    """What the outputs are, where their last operation does not tell: probabilities, logits, sigmoid, sigmoid_logits, regression;
    or one by label, by output, or by ``label.output``."""
    signatures: Mapping[str, str] = Field(default_factory=dict)
    """Which signature of a SavedModel is called, by its label; by default the one for serving, or the only one."""
    examples: str | None = None
    """An ``.npz`` file with inputs for the comparison with the parts, by their names; by default random ones."""


class SavedmodelFromFrozenGraph(SavedModelStep):
    """Make a SavedModel of a frozen graph of TensorFlow 1.

    Its signature calls inputs and outputs by the last part of their nodes' names, or as you say.
    """

    kind: ClassVar[str] = "savedmodel_from_frozen_graph"
    takes: ClassVar[tuple[str, ...]] = ()
    paths: ClassVar[tuple[str, ...]] = ("graph",)
    relative: ClassVar[tuple[str, ...]] = ("examples",)
    flags: ClassVar[dict[str, tuple[str, ...]]] = {"feeds": ("--inputs",), "fetches": ("--outputs",)}

    graph: str
    """The file: ``frozen_graph.pb``."""
    feeds: Tensors = ()
    """Tensors that are given: ``node``, ``node:1`` or ``name=node:1``; by default all placeholders that the outputs need."""
    fetches: Tensors = ()
    """Tensors that are wanted, likewise; by default the only one that nothing uses."""
    examples: str | None = None
    """An ``.npz`` file with inputs for the comparison with the graph, by their names; by default random ones."""


class SavedmodelJoinFrozen(SavedModelStep):
    """Join frozen graphs of TensorFlow 1: tensors of one take the place of tensors of another.

    Nodes stand under the label of their graph, ``label/node``, and so do functions, tables and loops.
    """

    kind: ClassVar[str] = "savedmodel_join_frozen"
    takes: ClassVar[tuple[str, ...]] = ()
    paths: ClassVar[tuple[str, ...]] = ("graphs",)
    relative: ClassVar[tuple[str, ...]] = ("examples",)
    flags: ClassVar[dict[str, tuple[str, ...]]] = {"feeds": ("--inputs",), "fetches": ("--outputs",)}

    graphs: Annotated[tuple[str, ...], Field(min_length=2)]
    """The files, those that give before those that take."""
    connect: Mapping[str, str] = Field(default_factory=dict)
    """Which tensor takes the place of another one: ``{b/x:0: a/y:0}``."""
    feeds: Tensors = ()
    """Tensors that are given: ``label/node``, ``label/node:1`` or ``name=label/node:1``; by default all placeholders that are needed."""
    fetches: Tensors = ()
    """Tensors that are wanted, likewise; by default the only one of the last graph that nothing uses."""
    labels: Words = ()
    """What the graphs are called; by default their files' names."""
    result: Literal["saved_model", "frozen_graph"] = "saved_model"
    """What comes out: a ``saved_model``, or a ``frozen_graph`` again."""
    examples: str | None = None
    """An ``.npz`` file with inputs for the comparison with the graphs, by their names; by default random ones."""

    @property
    def is_model(self) -> bool:
        """Whether later steps can use the result: a frozen graph is a file that `graph` and `graphs` name, no model."""
        return self.result == "saved_model"
