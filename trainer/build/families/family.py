"""What a family of models adds to a run, whatever its kind."""

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
from trainer.modules.retriever import Temperature
from trainer.objectives.objective import Objective
from trainer.objectives.teachers import Teacher
from trainer.recipe.schema.model import FullTuning, LoraTuning, ModelSection

RecipeType = TypeVar("RecipeType")
EncoderType = TypeVar("EncoderType")
Collate = Callable[[Sequence[Row]], Batch]
"""Rows to a batch."""
PositivesByQuery = Mapping[int, frozenset[int]]
"""The identity of a query to those of all its positives."""


@runtime_checkable
class Evaluate(Protocol):
    """Measures an encoder of the family on judged queries."""

    def __call__(self, encoder: Any, judged_set: RetrievalSet, *, name: str) -> SystemResult: ...


@dataclass(frozen=True)
class Learning:
    """What is learned, and with which weights beside the encoder's."""

    objective: Objective
    temperature: Temperature
    head: nn.Module | None = None
    """A layer that is trained beside the encoder and not saved."""
    is_head: Callable[[str], bool] = is_projection
    """Whether the encoder's parameter of this name has the learning rate of heads."""


class RecipeFamily(ABC, Generic[RecipeType, EncoderType]):
    """What recipes of one kind are made of."""

    @abstractmethod
    def build_model(self, run: RecipeType) -> EncoderType:
        """The model that a recipe trains, in training mode. Raises BadModel."""

    @abstractmethod
    def learning(
        self, run: RecipeType, encoder: EncoderType, teachers: Sequence[Teacher]
    ) -> Learning:
        """What the recipe learns. Raises BadRecipe where that does not fit the model."""

    @abstractmethod
    def encode(self, run: RecipeType, encoder: EncoderType) -> Encode:
        """What the objective calls: the encoder, or what gives more than its embeddings."""

    @abstractmethod
    def collate(self, run: RecipeType, encoder: EncoderType, known: PositivesByQuery) -> Collate:
        """What makes a batch of rows. `known` are all positives of each query."""

    @abstractmethod
    def evaluate(self, run: RecipeType) -> Evaluate:
        """What measures a model of the family, in the precision of the machine."""

    def start(self, run: RecipeType, encoder: EncoderType, rows: Rows) -> None:
        """Gives new weights their values where they depend on the data: the same on every rank,
        every time. Raises BadData or BadRecipe where that cannot be.
        """
        self.check(run, encoder)

    def check(self, run: RecipeType, encoder: EncoderType) -> None:
        """Raises BadRecipe where the recipe does not fit the model."""

    def random_negatives(
        self, run: RecipeType, rows: Rows, known: PositivesByQuery
    ) -> RandomNegatives | None:
        """What draws the negatives of rows, where the recipe asks for it."""
        return None


class SharedSettings(TypedDict):
    """The arguments that the settings of all families have."""

    backbone: str
    query_prompt: str | None
    document_prompt: str | None
    query_max_length_tokens: int | None
    document_max_length_tokens: int | None
    dropout: float | None
    lora: Lora | None
    activation_checkpointing: bool


def shared_settings(model: ModelSection) -> SharedSettings:
    """The keys that the section `model` of every family has."""
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
