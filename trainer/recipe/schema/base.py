"""What the recipes of all families have in common."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from trainer.recipe.schema.data import DataSection
from trainer.recipe.schema.machine import CheckpointSection, MachineSection
from trainer.recipe.schema.model import (
    ModelSection,
    VectorModel,
)
from trainer.recipe.schema.objective import (
    ContrastiveObjective,
    CosentObjective,
    ObjectiveSection,
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
)
from trainer.recipe.schema.trackers import Tracker
from trainer.recipe.schema.training import (
    OptimizationSection,
    ValidationSection,
)

OBJECTIVE = "the loss that is minimised"
TEACHER = "models to learn from, in addition to the objective or instead of it; null: none"
MATRYOSHKA = "train smaller models inside the model; null: only the whole model"
VALIDATION = "when to measure on validation queries"


class BaseRecipe(Section):
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
    objective: ObjectiveSection
    optimization: OptimizationSection = Field(
        OptimizationSection(), description="AdamW and its schedule"
    )
    validation: ValidationSection = Field(ValidationSection(), description=VALIDATION)
    machine: MachineSection = Field(
        MachineSection(), description="how this machine runs the training"
    )
    checkpoints: CheckpointSection = Field(
        CheckpointSection(), description="when the state of the training is saved"
    )
    trackers: tuple[Tracker, ...] = Field(
        (), description="trackers that get the metrics of log.jsonl, e.g. [{kind: wandb}]"
    )

    @property
    def has_images(self) -> bool:
        """Whether the documents of the data are images."""
        return False

    @property
    def first_stage(self) -> str | None:
        """The model whose documents are re-ranked in validation; None: none."""
        return None

    @property
    def teacher_models(self) -> tuple[str, ...]:
        """The models to learn from."""
        return ()

    @property
    def refresh_section(self) -> RefreshSection | None:
        """How negatives are mined while training; None: they are not."""
        return None

    def without_refresh(self) -> Self:
        """The recipe without mining while training."""
        return self


class BaseVectorRecipe(BaseRecipe):
    """The common base of recipes for models that return vectors."""

    model: VectorModel
    objective: VectorObjective
    teacher: BiEncoderTeacher | ColBERTTeacher | None
    refresh: RefreshSection | None = Field(
        None, description="hard negatives mined during training; null: none"
    )

    @property
    def teacher_models(self) -> tuple[str, ...]:
        """The models to learn from."""
        return self.teacher.models if self.teacher is not None else ()

    @property
    def matryoshka_section(self) -> BiEncoderMatryoshka | ColBERTMatryoshka | None:
        """The smaller models that are trained inside the model; None: none."""
        return None

    @property
    def refresh_section(self) -> RefreshSection | None:
        """How negatives are mined while training; None: they are not."""
        return self.refresh

    def without_refresh(self) -> Self:
        """The recipe without mining while training."""
        return self.model_copy(update={"refresh": None})

    @property
    def negatives_per_query(self) -> int:
        """Number of negatives per query in a batch: those of the data and mined ones."""
        mined_negatives = self.refresh.negatives if self.refresh is not None else 0
        return self.data.negatives_per_query + mined_negatives

    @property
    def compares_own_candidates(self) -> bool:
        """Whether objective or teacher needs at least one own negative per query."""
        teacher = self.teacher
        return self.objective.compares_own_candidates or (
            isinstance(teacher, MarginsTeacher)
            or (isinstance(teacher, DistributionTeacher) and teacher.candidates == "own")
        )

    @model_validator(mode="after")
    def _objective_has_its_negatives(self) -> Self:
        objective, data_negatives = self.objective, self.data.negatives_per_query
        if isinstance(objective, CosentObjective) and data_negatives:
            raise ValueError(
                "objective.kind=cosent learns from scored pairs, not from hard negatives; set"
                " data.negatives_per_query to 0"
            )
        negatives = data_negatives if objective.reads_scores else self.negatives_per_query
        if objective.compares_own_candidates and not negatives:
            mining = "" if objective.reads_scores else ", or mine them with refresh"
            raise ValueError(
                f"objective.kind={objective.kind} compares a query's own candidates; set"
                f" data.negatives_per_query to 1 or more{mining}"
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
        if self.teacher.objective_weight == 0 and self.objective.learns_temperature:
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
        if isinstance(objective, ContrastiveObjective) and objective.teacher_margin is not None:
            raise ValueError(
                "objective.teacher_margin reads scores in the data, but newly mined documents have"
                " none; remove it, or use objective.guide"
            )
        if objective.reads_scores:
            raise ValueError(
                f"objective.kind={objective.kind} learns from scores in the data, but newly mined"
                " documents have none, so it cannot be combined with refresh; use contrastive or"
                " triplet, with a section `teacher` to learn from a model"
            )
        if not self.compares_own_candidates or self.data.negatives_per_query:
            return self
        if first_step := self.refresh.first_step:
            raise ValueError(
                f"before refresh.first_step={first_step} queries have no negatives to compare"
                " with; set it to 0, or data.negatives_per_query to 1 or more"
            )
        if (limit := self.refresh.max_documents) is not None:
            raise ValueError(
                f"with more than refresh.max_documents={limit} documents, queries have no"
                " negatives to compare with; set it to null, or data.negatives_per_query to 1 or"
                " more"
            )
        return self
