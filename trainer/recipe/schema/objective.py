"""The section `objective`: the loss that is minimised."""

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from trainer.recipe.schema.section import NonNegativeFloat, Section


class ObjectiveSection(Section):
    """What is asked of every objective, so that no list of objectives stands elsewhere."""

    @property
    def compares_own_candidates(self) -> bool:
        """Whether a query without negatives of its own teaches nothing."""
        return False

    @property
    def reads_scores(self) -> bool:
        """Whether the data must have scores. Documents that are mined in training have none."""
        return False

    @property
    def learns_temperature(self) -> bool:
        """Whether the temperature is trained."""
        return False


class HardnessSection(Section):
    """Which in-batch negatives count, depending on how hard they are for the current model. All
    documents of the batch are compared, on all ranks.
    """

    top_k: PositiveInt | None = Field(
        None, description="only the N hardest negatives of each query; null: all"
    )
    semi_hard: bool = Field(
        False,
        description="only negatives that score below the query's positive (Schroff et al. 2015)",
    )
    beta: NonNegativeFloat = Field(
        0.0,
        description=(
            "weight each negative by exp(beta x score / temperature) over the mean weight (Robinson"
            " et al. 2021); 0: equal weights"
        ),
    )


class ContrastiveObjective(ObjectiveSection):
    """The keys of InfoNCE in all families (van den Oord et al. 2018)."""

    kind: Literal["contrastive"] = "contrastive"
    temperature: PositiveFloat = Field(0.05, description="scores are divided by it")
    learn_temperature: bool = Field(
        False, description="train the temperature too, starting from `temperature`"
    )
    symmetric: bool = Field(
        False,
        description="use the mean of both directions: query to documents, and positive to queries",
    )
    hardness: HardnessSection | None = Field(
        None, description="which in-batch negatives count; null: all; not with `symmetric`"
    )
    teacher_margin: float | None = Field(
        None,
        description=(
            "exclude hard negatives whose score in the data is above the positive's minus this"
            " value; null: exclude none"
        ),
    )

    @property
    def reads_scores(self) -> bool:
        """Only to exclude hard negatives."""
        return self.teacher_margin is not None

    @property
    def learns_temperature(self) -> bool:
        """As the recipe says."""
        return self.learn_temperature

    @model_validator(mode="after")
    def _hardness_has_one_direction(self) -> Self:
        if self.hardness is not None and self.symmetric:
            raise ValueError(
                "objective.hardness selects documents that are hard for a query, so it has one"
                " direction; set objective.symmetric to false"
            )
        return self


class BiEncoderContrastiveObjective(ContrastiveObjective):
    """InfoNCE over all documents of the batch (van den Oord et al. 2018), by dot products."""

    guide: str | None = Field(
        None,
        description=(
            "a frozen model with the same tokenizer; documents that it scores above the query's"
            " positive are excluded; null: no guide"
        ),
    )
    guide_margin: float = Field(
        0.0,
        description=(
            "also exclude documents up to this much below the positive's score, in units of the"
            " guide's score"
        ),
    )


class ColBERTContrastiveObjective(ContrastiveObjective):
    """InfoNCE over all documents of the batch (van den Oord et al. 2018), by MaxSim or XTR."""

    xtr_top_k: PositiveInt | None = Field(
        None,
        description=(
            "XTR's score: for each query token, only the N best document tokens of the whole batch"
            " count, and the score is a mean; null: MaxSim"
        ),
    )


class ImageTextContrastiveObjective(ContrastiveObjective):
    """InfoNCE over all images of the batch (van den Oord et al. 2018), in both directions as CLIP
    has it (Radford et al. 2021).
    """

    temperature: PositiveFloat = Field(0.01, description="scores are divided by it")
    learn_temperature: bool = Field(
        True, description="train the temperature too, starting from `temperature`"
    )
    symmetric: bool = Field(
        True,
        description="use the mean of both directions: caption to images, and image to captions",
    )

    @model_validator(mode="after")
    def _images_are_no_hard_negatives(self) -> Self:
        if self.teacher_margin is not None:
            raise ValueError(
                "objective.teacher_margin excludes hard negatives, but kind image_text has none;"
                " remove it"
            )
        return self


class SigmoidObjective(ObjectiveSection):
    """The sigmoid loss of SigLIP (Zhai et al. 2023, eq. 1): each pair of a query and a document of
    the batch is judged by itself.
    """

    kind: Literal["sigmoid"] = "sigmoid"
    temperature: PositiveFloat = Field(0.1, description="scores are divided by it")
    bias: float = Field(
        -10.0,
        description=(
            "added to the scores after the division; negative, because most pairs of a batch are no"
            " positives"
        ),
    )
    learn_temperature: bool = Field(
        True, description="train temperature and bias too, starting from these values"
    )

    @property
    def learns_temperature(self) -> bool:
        """As the recipe says."""
        return self.learn_temperature


class SparseContrastiveObjective(ContrastiveObjective):
    """InfoNCE over all documents of the batch (van den Oord et al. 2018), by dot products."""

    temperature: PositiveFloat = Field(1.0, description="scores are divided by it")


class DistillationObjective(ObjectiveSection):
    """KL divergence to a teacher's scores in the data, over each query's own candidates (ColBERTv2,
    Santhanam et al. 2022).
    """

    kind: Literal["distillation"] = "distillation"
    temperature: PositiveFloat = Field(0.05, description="the model's scores are divided by it")
    teacher_temperature: PositiveFloat = Field(
        1.0, description="the teacher's scores in the data are divided by it"
    )

    @property
    def compares_own_candidates(self) -> bool:
        """Always."""
        return True

    @property
    def reads_scores(self) -> bool:
        """Always."""
        return True


class MarginMseObjective(ObjectiveSection):
    """Squared error of the margin between positive and negative against the teacher's margin in the
    data (MarginMSE, Hofstaetter et al. 2020).
    """

    kind: Literal["margin_mse"] = "margin_mse"

    @property
    def compares_own_candidates(self) -> bool:
        """Always."""
        return True

    @property
    def reads_scores(self) -> bool:
        """Always."""
        return True


class CosentObjective(ObjectiveSection):
    """CoSENT for pairs with a graded score: the pair with the higher score must be more similar (Su
    2022).
    """

    kind: Literal["cosent"] = "cosent"
    temperature: PositiveFloat = Field(0.05, description="scores are divided by it")

    @property
    def reads_scores(self) -> bool:
        """Always."""
        return True


class TripletObjective(ObjectiveSection):
    """The positive must score higher than each negative of its row by a margin (Schroff et al.
    2015, on scores).
    """

    kind: Literal["triplet"] = "triplet"
    margin: PositiveFloat = Field(0.2, description="in units of the score")

    @property
    def compares_own_candidates(self) -> bool:
        """Always."""
        return True


BiEncoderObjective = Annotated[
    BiEncoderContrastiveObjective
    | SigmoidObjective
    | DistillationObjective
    | MarginMseObjective
    | CosentObjective
    | TripletObjective,
    Field(discriminator="kind"),
]
ColBERTObjective = Annotated[
    ColBERTContrastiveObjective
    | DistillationObjective
    | MarginMseObjective
    | CosentObjective
    | TripletObjective,
    Field(discriminator="kind"),
]
SparseObjective = Annotated[
    SparseContrastiveObjective | DistillationObjective | MarginMseObjective,
    Field(discriminator="kind"),
]
ImageTextObjective = Annotated[
    ImageTextContrastiveObjective | SigmoidObjective, Field(discriminator="kind")
]
VectorObjective = ContrastiveObjective | BiEncoderObjective | ColBERTObjective | SparseObjective
