"""What the families of models that give vectors have in common."""

from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import TypeVar

from trainer.build import hardware, students
from trainer.build.families.family import (
    Collate,
    Evaluate,
    Learning,
    PositivesByQuery,
    RecipeFamily,
)
from trainer.build.objective import build_objective
from trainer.data.collate import collate
from trainer.evaluation.evaluate import evaluate
from trainer.microbatches import Encode
from trainer.models.encoder import VectorEncoder
from trainer.modules.retriever import Temperature
from trainer.objectives.exclusions import Exclusion, RepeatedPositives, TaughtBetter
from trainer.objectives.objective import Objective
from trainer.objectives.teachers import Teacher
from trainer.recipe.schema.base import BaseVectorRecipe
from trainer.recipe.schema.objective import ContrastiveObjective
from trainer.scores import Score

VectorRecipeType = TypeVar("VectorRecipeType", bound=BaseVectorRecipe)
VectorEncoderType = TypeVar("VectorEncoderType", bound=VectorEncoder)


class VectorFamily(RecipeFamily[VectorRecipeType, VectorEncoderType]):
    """Recipes of models that give vectors: one score for every query and document of the batch."""

    @abstractmethod
    def score(self, run: VectorRecipeType) -> Score:
        """How a query is compared with a document, computed as the machine wishes. Raises BadRecipe
        for kernels that are not there.
        """

    def is_normalized(self, encoder: VectorEncoderType) -> bool:
        """Whether the first numbers of a vector are brought to length 1 where they are trained to
        be used alone.
        """
        return False

    def exclusions(self, run: VectorRecipeType, encoder: VectorEncoderType) -> list[Exclusion]:
        """What leaves out negatives that are probably right."""
        objective, exclusions = run.objective, list[Exclusion]()
        if isinstance(objective, ContrastiveObjective):
            if run.refresh is not None:
                exclusions.append(RepeatedPositives())
            if objective.teacher_margin is not None:
                exclusions.append(TaughtBetter(objective.teacher_margin))
        return exclusions

    def objective(
        self, run: VectorRecipeType, encoder: VectorEncoderType
    ) -> tuple[Objective, Temperature]:
        """The objective of the recipe, and its temperature."""
        exclusions = self.exclusions(run, encoder)
        return build_objective(run.objective, self.score(run), exclusions)

    def learning(
        self, run: VectorRecipeType, encoder: VectorEncoderType, teachers: Sequence[Teacher]
    ) -> Learning:
        """The objective, with what the teachers teach, at all widths and depths."""
        objective, temperature = self.objective(run, encoder)
        objective, head = students.with_students(
            run, objective, self.score(run), encoder, teachers, self.is_normalized(encoder)
        )
        return Learning(objective, temperature, head)

    def encode(self, run: VectorRecipeType, encoder: VectorEncoderType) -> Encode:
        """The encoder, or its embeddings at all depths that matryoshka trains."""
        return students.encode_of(run, encoder)

    def check(self, run: VectorRecipeType, encoder: VectorEncoderType) -> None:
        """Raises BadRecipe where matryoshka does not fit the model."""
        students.check_whole(run, encoder)

    def collate(
        self, run: VectorRecipeType, encoder: VectorEncoderType, known: PositivesByQuery
    ) -> Collate:
        """Queries and documents by themselves."""
        return partial(
            collate,
            tokenize=encoder.tokenize,
            known_positives=known,
            negatives_per_query=run.negatives_per_query,
        )

    def evaluate(self, run: VectorRecipeType) -> Evaluate:
        """Search of the whole corpus."""
        return partial(
            evaluate,
            precision=hardware.precision(run.machine),
            micro_batch_tokens=hardware.micro_batch_tokens(run.machine),
        )
