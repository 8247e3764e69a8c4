"""The base class for the parts of a run that depend on the family of models."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypedDict, TypeVar, assert_never, runtime_checkable

from torch import nn

from trainer.batch import Batch
from trainer.data.random_negatives import RandomNegatives
from trainer.data.retrieval_set import RetrievalSet
from trainer.data.rows import Row, Rows
from trainer.evaluation.results import SystemResult
from trainer.microbatches import Encode
from trainer.models.settings import Lora
from trainer.modules.optimizer import is_projection
from trainer.modules.retriever import Check, Temperature, no_check
from trainer.objectives.objective import Objective
from trainer.objectives.teachers import Teacher
from trainer.recipe.schema.model import FullTuning, LoraTuning, ModelSection

RecipeType = TypeVar("RecipeType")
EncoderType = TypeVar("EncoderType")
Collate = Callable[[Sequence[Row]], Batch]
"""Makes a batch of rows."""
PositivesByQuery = Mapping[int, frozenset[int]]
"""The identity of a query to the identities of all its positives."""


@runtime_checkable
class Evaluate(Protocol):
    """Measures an encoder of the family on judged queries."""

    def __call__(self, encoder: Any, judged_set: RetrievalSet, *, name: str) -> SystemResult: ...


@dataclass(frozen=True)
class Learning:
    """The objective of a run, and the weights that are trained in addition to the encoder's."""

    objective: Objective
    temperature: Temperature
    head: nn.Module | None = None
    """A layer that is trained with the encoder and not saved."""
    is_head: Callable[[str], bool] = is_projection
    """True for the name of an encoder's parameter that has the learning rate of heads."""
    check: Check = no_check
    """Looks at the metrics of each step, and may end the training."""


class RecipeFamily(ABC, Generic[RecipeType, EncoderType]):
    """Builds the parts of runs of one kind."""

    @abstractmethod
    def build_model(self, run: RecipeType) -> EncoderType:
        """Builds the model that a recipe trains, in training mode. Raises BadModel."""

    @abstractmethod
    def learning(
        self, run: RecipeType, encoder: EncoderType, teachers: Sequence[Teacher], steps: int
    ) -> Learning:
        """Returns what the recipe learns in that many steps.

        Raises BadRecipe when it does not fit the model.
        """

    @abstractmethod
    def encode(self, run: RecipeType, encoder: EncoderType) -> Encode:
        """Returns the function that the objective calls: the encoder, or one that gives more."""

    @abstractmethod
    def collate(
        self, run: RecipeType, encoder: EncoderType, positives: PositivesByQuery
    ) -> Collate:
        """Returns the function that makes a batch of rows; `positives` are all known positives."""

    @abstractmethod
    def evaluate(self, run: RecipeType) -> Evaluate:
        """Returns the function that measures a model, in the precision of the machine."""

    def start(self, run: RecipeType, encoder: EncoderType, rows: Rows) -> None:
        """Sets new weights that depend on the data; the values are the same on every rank.

        Raises BadData or BadRecipe when this is impossible.
        """
        self.check(run, encoder)

    def check(self, run: RecipeType, encoder: EncoderType) -> None:
        """Raises BadRecipe when the recipe does not fit the model."""

    def documents_per_validation(self, run: RecipeType, validation: RetrievalSet) -> int:
        """Returns how many documents the model reads in one validation."""
        return len(validation.documents)

    def random_negatives(
        self, run: RecipeType, rows: Rows, positives: PositivesByQuery
    ) -> RandomNegatives | None:
        """Returns the sampler of random negatives, if the recipe has any."""
        return None


class SharedSettings(TypedDict):
    """The settings that all families have."""

    backbone: str
    query_prompt: str | None
    document_prompt: str | None
    query_max_length_tokens: int | None
    document_max_length_tokens: int | None
    dropout: float | None
    lora: Lora | None
    activation_checkpointing: bool


def shared_settings(model: ModelSection) -> SharedSettings:
    """Returns the settings in the section `model` that all families have."""
    return {
        "backbone": model.backbone,
        "query_prompt": model.query_prompt,
        "document_prompt": model.document_prompt,
        "query_max_length_tokens": model.query_max_length_tokens,
        "document_max_length_tokens": model.document_max_length_tokens,
        "dropout": model.dropout,
        "lora": _lora(model.tuning),
        "activation_checkpointing": model.activation_checkpointing,
    }


def _lora(tuning: LoraTuning | FullTuning) -> Lora | None:
    match tuning:
        case LoraTuning():
            return Lora(**tuning.model_dump(exclude={"kind"}))
        case FullTuning():
            return None
        case _:
            assert_never(tuning)
