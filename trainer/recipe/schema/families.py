"""A complete recipe: one class per family of models, distinguished by `kind`."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from trainer.recipe.schema.data import DataSection
from trainer.recipe.schema.machine import MachineSection, Tracker
from trainer.recipe.schema.model import (
    BiEncoderModel,
    ColBERTModel,
    CrossEncoderModel,
    ModelSection,
    VectorModel,
)
from trainer.recipe.schema.objective import (
    BiEncoderContrastiveObjective,
    BiEncoderObjective,
    ColBERTContrastiveObjective,
    ColBERTObjective,
    ContrastiveObjective,
    CosentObjective,
    CrossEncoderObjective,
    DistillationObjective,
    MarginMseObjective,
    PointwiseObjective,
    RankingObjective,
    TripletObjective,
    VectorObjective,
)
from trainer.recipe.schema.refresh import RefreshSection
from trainer.recipe.schema.section import Section
from trainer.recipe.schema.teaching import (
    BiEncoderMatryoshka,
    BiEncoderTeacher,
    ColBERTMatryoshka,
    ColBERTTeacher,
    DistributionTeacher,
    MarginsTeacher,
    VectorsTeacher,
)
from trainer.recipe.schema.training import (
    CrossEncoderValidation,
    OptimizationSection,
    ValidationSection,
)

_OBJECTIVE = "the loss that is minimised"
_TEACHER = "models to learn from, in addition to the objective or instead of it; null: none"
_MATRYOSHKA = "train smaller models inside the model; null: only the whole model"
_VALIDATION = "when to measure on validation queries"


class _Recipe(Section):
    """One run: the model, its data, and how it is trained."""

    kind: str
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")] = Field(
        description="the run folder is `<output>/<name>`"
    )
    output: str = Field("runs", description="folder of all runs")
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(
        13, description="random seed of the order of the data, of dropout and of new weights"
    )
    model: ModelSection
    data: DataSection
    objective: Section
    optimization: OptimizationSection = Field(
        OptimizationSection(), description="AdamW and its schedule"
    )
    validation: ValidationSection = Field(ValidationSection(), description=_VALIDATION)
    machine: MachineSection = Field(
        MachineSection(), description="how this machine runs the training"
    )
    trackers: tuple[Tracker, ...] = Field(
        (), description="trackers that get the metrics of log.jsonl, e.g. [{kind: wandb}]"
    )


class _VectorRecipe(_Recipe):
    """The common base of recipes for models that return vectors."""

    model: VectorModel
    objective: VectorObjective
    teacher: BiEncoderTeacher | ColBERTTeacher | None
    matryoshka: BiEncoderMatryoshka | ColBERTMatryoshka | None
    refresh: RefreshSection | None = Field(
        None, description="hard negatives mined during training; null: none"
    )

    @property
    def negatives_per_query(self) -> int:
        """Number of negatives per query in a batch: those of the data and mined ones."""
        mined_negatives = self.refresh.negatives if self.refresh is not None else 0
        return self.data.negatives_per_query + mined_negatives

    @property
    def compares_own_candidates(self) -> bool:
        """Whether objective or teacher needs at least one own negative per query."""
        teacher = self.teacher
        return isinstance(self.objective, TripletObjective) or (
            isinstance(teacher, MarginsTeacher)
            or (isinstance(teacher, DistributionTeacher) and teacher.candidates == "own")
        )

    @model_validator(mode="after")
    def _objective_has_its_negatives(self) -> Self:
        objective, data_negatives = self.objective, self.data.negatives_per_query
        match objective:
            case CosentObjective() if data_negatives:
                raise ValueError(
                    "objective.kind=cosent learns from scored pairs, not from hard negatives; set"
                    " data.negatives_per_query to 0"
                )
            case TripletObjective() if not self.negatives_per_query:
                raise ValueError(
                    "objective.kind=triplet compares with hard negatives; set"
                    " data.negatives_per_query to 1 or more, or mine them with refresh"
                )
            case DistillationObjective() | MarginMseObjective() if not data_negatives:
                raise ValueError(
                    f"objective.kind={objective.kind} compares a query's own candidates; set"
                    " data.negatives_per_query to 1 or more"
                )
        return self

    @model_validator(mode="after")
    def _teacher_has_something_to_teach(self) -> Self:
        if self.teacher is None:
            return self
        if self.compares_own_candidates and not self.negatives_per_query:
            raise ValueError(
                "the teacher compares each query's own candidates, but there are no negatives; set"
                " data.negatives_per_query to 1 or more, or teacher.kind to distribution"
            )
        if (
            self.teacher.objective_weight == 0
            and isinstance(self.objective, ContrastiveObjective)
            and self.objective.learn_temperature
        ):
            raise ValueError(
                "with teacher.objective_weight=0 nothing trains the objective's temperature; set"
                " objective.learn_temperature to false"
            )
        return self

    @model_validator(mode="after")
    def _mined_negatives_have_no_scores(self) -> Self:
        if self.refresh is None:
            return self
        objective = self.objective
        if not isinstance(objective, ContrastiveObjective | TripletObjective):
            raise ValueError(
                f"objective.kind={objective.kind} learns from scores in the data, but newly mined"
                " documents have none, so it cannot be combined with refresh; use contrastive or"
                " triplet, with a section `teacher` to learn from a model"
            )
        if isinstance(objective, ContrastiveObjective) and objective.teacher_margin is not None:
            raise ValueError(
                "objective.teacher_margin reads scores in the data, but newly mined documents have"
                " none; remove it, or use objective.guide"
            )
        first_step = self.refresh.first_step
        if self.compares_own_candidates and first_step and not self.data.negatives_per_query:
            raise ValueError(
                f"before refresh.first_step={first_step} queries have no negatives to compare"
                " with; set it to 0, or data.negatives_per_query to 1 or more"
            )
        return self


class BiEncoderRecipe(_VectorRecipe):
    """Train a model of one vector per text."""

    kind: Literal["bi_encoder"] = "bi_encoder"
    model: BiEncoderModel
    objective: BiEncoderObjective = Field(BiEncoderContrastiveObjective(), description=_OBJECTIVE)
    teacher: BiEncoderTeacher | None = Field(None, description=_TEACHER)
    matryoshka: BiEncoderMatryoshka | None = Field(None, description=_MATRYOSHKA)

    @model_validator(mode="after")
    def _smaller_models_fit_the_whole(self) -> Self:
        if self.matryoshka is None:
            return self
        if isinstance(self.teacher, VectorsTeacher) and self.matryoshka.dimensions is not None:
            raise ValueError(
                "teacher.kind=vectors compares whole vectors, but matryoshka.dimensions trains"
                " their first components; set teacher.kind to distribution"
            )
        if self.model.static is not None and self.matryoshka.layers is not None:
            raise ValueError(
                "matryoshka.layers trains the first layers of a transformer, but model.static has"
                " none; remove one of them"
            )
        return self


class ColBERTRecipe(_VectorRecipe):
    """Train a model of one vector per token (late interaction)."""

    kind: Literal["colbert"] = "colbert"
    model: ColBERTModel
    objective: ColBERTObjective = Field(ColBERTContrastiveObjective(), description=_OBJECTIVE)
    teacher: ColBERTTeacher | None = Field(None, description=_TEACHER)
    matryoshka: ColBERTMatryoshka | None = Field(None, description=_MATRYOSHKA)


class CrossEncoderRecipe(_Recipe):
    """Train a model of one score per pair of query and document."""

    kind: Literal["cross_encoder"] = "cross_encoder"
    model: CrossEncoderModel
    objective: CrossEncoderObjective = Field(description=_OBJECTIVE)
    validation: CrossEncoderValidation = Field(CrossEncoderValidation(), description=_VALIDATION)

    @property
    def random_negatives(self) -> int:
        """Number of negatives per query that are drawn at random from its batch."""
        match self.objective:
            case RankingObjective():
                return self.objective.random_negatives
            case _:
                return 0

    @property
    def negatives_per_query(self) -> int:
        """Number of negatives per query in a batch: those of the data, or random ones."""
        return self.data.negatives_per_query or self.random_negatives

    @model_validator(mode="after")
    def _a_query_has_candidates(self) -> Self:
        objective, data_negatives = self.objective, self.data.negatives_per_query
        random_negatives, batch_size = self.random_negatives, self.optimization.batch_size
        if random_negatives and data_negatives:
            raise ValueError(
                f"objective.random_negatives={random_negatives} is for data without negatives, but"
                f" data.negatives_per_query is {data_negatives}; set one of them to 0"
            )
        if random_negatives >= batch_size:
            raise ValueError(
                f"objective.random_negatives={random_negatives} are drawn from the other rows of a"
                f" batch of {batch_size}; set it to at most {batch_size - 1}, or use a larger batch"
            )
        scored_pairs = isinstance(objective, PointwiseObjective) and objective.graded
        if not random_negatives and not data_negatives and not scored_pairs:
            raise ValueError(
                f"objective.kind={objective.kind} compares a query's own candidates, but there is"
                " only the positive; set objective.random_negatives, or data.negatives_per_query"
                " if the data have hard negatives"
            )
        return self


VectorRecipe = BiEncoderRecipe | ColBERTRecipe
Recipe = Annotated[
    BiEncoderRecipe | ColBERTRecipe | CrossEncoderRecipe, Field(discriminator="kind")
]
RecipeClass = type[BiEncoderRecipe] | type[ColBERTRecipe] | type[CrossEncoderRecipe]

DEFAULT_KIND = "bi_encoder"
"""The `kind` of a recipe without this key."""
FAMILIES: dict[str, RecipeClass] = {
    "bi_encoder": BiEncoderRecipe,
    "colbert": ColBERTRecipe,
    "cross_encoder": CrossEncoderRecipe,
}
