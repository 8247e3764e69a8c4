"""The parts of a run that all families of embedding models share."""

from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import TypeVar

from torch import nn

from trainer.build import hardware, students
from trainer.build.families.family import (
    Collate,
    Evaluate,
    Learning,
    PositivesByQuery,
    RecipeFamily,
)
from trainer.build.objective import build_objective, learned_bias
from trainer.data.collate import collate
from trainer.evaluation.evaluate import evaluate
from trainer.microbatches import Encode
from trainer.models.encoder import VectorEncoder
from trainer.modules.retriever import Temperature
from trainer.objectives.exclusions import Exclusion, RepeatedPositives, TaughtBetter
from trainer.objectives.objective import Objective
from trainer.objectives.teachers import Teacher
from trainer.recipe.schema.base import BaseVectorRecipe
from trainer.recipe.schema.objective import ContrastiveObjective, SigmoidObjective
from trainer.scores import Score

VectorRecipeType = TypeVar("VectorRecipeType", bound=BaseVectorRecipe)
VectorEncoderType = TypeVar("VectorEncoderType", bound=VectorEncoder)


class VectorFamily(RecipeFamily[VectorRecipeType, VectorEncoderType]):
    """Builds runs of models that give vectors; every query and document of a batch are compared."""

    @abstractmethod
    def score(self, run: VectorRecipeType) -> Score:
        """Returns the score of queries and documents, with the kernels that the machine requests.

        Raises BadRecipe when these are not available.
        """

    def is_normalized(self, encoder: VectorEncoderType) -> bool:
        """Returns true when matryoshka scales the first dimensions of a vector to length 1."""
        return False

    def exclusions(self, run: VectorRecipeType, encoder: VectorEncoderType) -> list[Exclusion]:
        """Returns the exclusions of negatives that are probably right answers."""
        objective, exclusions = run.objective, list[Exclusion]()
        if isinstance(objective, ContrastiveObjective | SigmoidObjective) and run.refresh:
            exclusions.append(RepeatedPositives())
        if isinstance(objective, ContrastiveObjective) and objective.teacher_margin is not None:
            exclusions.append(TaughtBetter(objective.teacher_margin))
        return exclusions

    def objective(
        self, run: VectorRecipeType, encoder: VectorEncoderType
    ) -> tuple[Objective, Temperature]:
        """Returns the objective of the recipe, and its temperature."""
        exclusions = self.exclusions(run, encoder)
        return build_objective(run.objective, self.score(run), exclusions)

    def learning(
        self,
        run: VectorRecipeType,
        encoder: VectorEncoderType,
        teachers: Sequence[Teacher],
        steps: int,
    ) -> Learning:
        """Returns the objective with the lesson of the teachers, at all widths and depths."""
        objective, temperature = self.objective(run, encoder)
        bias = learned_bias(objective)
        objective, head = students.with_students(
            run, objective, self.score(run), encoder, teachers, self.is_normalized(encoder)
        )
        return Learning(objective, temperature, _joined_heads(bias, head))

    def encode(self, run: VectorRecipeType, encoder: VectorEncoderType) -> Encode:
        """Returns the encoder, or the function that gives embeddings at all trained depths."""
        return students.training_encode(run, encoder)

    def check(self, run: VectorRecipeType, encoder: VectorEncoderType) -> None:
        """Raises BadRecipe when matryoshka does not fit the model."""
        students.check_matryoshka(run, encoder)

    def collate(
        self, run: VectorRecipeType, encoder: VectorEncoderType, positives: PositivesByQuery
    ) -> Collate:
        """Returns the function that makes batches of separate queries and documents."""
        return partial(
            collate,
            tokenize=encoder.tokenize,
            known_positives=positives,
            negatives_per_query=run.negatives_per_query,
        )

    def evaluate(self, run: VectorRecipeType) -> Evaluate:
        """Returns the function that measures search of the whole corpus."""
        return partial(
            evaluate,
            precision=hardware.precision(run.machine),
            micro_batch_tokens=hardware.micro_batch_tokens(run.machine),
        )


def _joined_heads(*heads: nn.Module | None) -> nn.Module | None:
    """Returns one module with those that are not None; None if there are none."""
    modules = [head for head in heads if head is not None]
    return nn.ModuleList(modules) if len(modules) > 1 else next(iter(modules), None)
