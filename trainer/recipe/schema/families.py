"""A complete recipe: one class per family of models, distinguished by `kind`."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from trainer.recipe.schema.base import (
    MATRYOSHKA,
    OBJECTIVE,
    TEACHER,
    VALIDATION,
    BaseRecipe,
    BaseVectorRecipe,
)
from trainer.recipe.schema.model import (
    BiEncoderModel,
    ColBERTModel,
    CrossEncoderModel,
    SparseModel,
)
from trainer.recipe.schema.objective import (
    BiEncoderContrastiveObjective,
    BiEncoderObjective,
    ColBERTContrastiveObjective,
    ColBERTObjective,
    ImageTextContrastiveObjective,
    ImageTextObjective,
    SparseContrastiveObjective,
    SparseObjective,
)
from trainer.recipe.schema.ranking import (
    CrossEncoderObjective,
    PointwiseObjective,
    RankingObjective,
)
from trainer.recipe.schema.sparse import RegularizerSection
from trainer.recipe.schema.teaching import (
    BiEncoderMatryoshka,
    BiEncoderTeacher,
    ColBERTMatryoshka,
    ColBERTTeacher,
    VectorsTeacher,
)
from trainer.recipe.schema.towers.image_text import ImageTextModel
from trainer.recipe.schema.training import (
    CrossEncoderValidation,
)


class BiEncoderRecipe(BaseVectorRecipe):
    """Train a model of one vector per text."""

    kind: Literal["bi_encoder"] = "bi_encoder"
    model: BiEncoderModel
    objective: BiEncoderObjective = Field(BiEncoderContrastiveObjective(), description=OBJECTIVE)
    teacher: BiEncoderTeacher | None = Field(None, description=TEACHER)
    matryoshka: BiEncoderMatryoshka | None = Field(None, description=MATRYOSHKA)

    @property
    def matryoshka_section(self) -> BiEncoderMatryoshka | None:
        """The smaller models that are trained inside the model; None: none."""
        return self.matryoshka

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


class ColBERTRecipe(BaseVectorRecipe):
    """Train a model of one vector per token (late interaction)."""

    kind: Literal["colbert"] = "colbert"
    model: ColBERTModel
    objective: ColBERTObjective = Field(ColBERTContrastiveObjective(), description=OBJECTIVE)
    teacher: ColBERTTeacher | None = Field(None, description=TEACHER)
    matryoshka: ColBERTMatryoshka | None = Field(None, description=MATRYOSHKA)

    @property
    def matryoshka_section(self) -> ColBERTMatryoshka | None:
        """The smaller models that are trained inside the model; None: none."""
        return self.matryoshka


class CrossEncoderRecipe(BaseRecipe):
    """Train a model of one score per pair of query and document."""

    kind: Literal["cross_encoder"] = "cross_encoder"
    model: CrossEncoderModel
    objective: CrossEncoderObjective = Field(description=OBJECTIVE)
    validation: CrossEncoderValidation = Field(CrossEncoderValidation(), description=VALIDATION)

    @property
    def first_stage(self) -> str | None:
        """The model whose documents are re-ranked in validation; None: BM25."""
        return self.validation.first_stage

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


class SparseRecipe(BaseVectorRecipe):
    """Train a model of one weight per word of the vocabulary (SPLADE)."""

    kind: Literal["sparse"] = "sparse"
    model: SparseModel
    objective: SparseObjective = Field(SparseContrastiveObjective(), description=OBJECTIVE)
    regularizer: RegularizerSection = Field(
        RegularizerSection(), description="what keeps vectors sparse"
    )
    teacher: ColBERTTeacher | None = Field(None, description=TEACHER)


class ImageTextRecipe(BaseRecipe):
    """Train a model that compares images with captions."""

    kind: Literal["image_text"] = "image_text"
    model: ImageTextModel
    objective: ImageTextObjective = Field(ImageTextContrastiveObjective(), description=OBJECTIVE)

    @property
    def has_images(self) -> bool:
        """Whether the documents of the data are images."""
        return True

    @property
    def negatives_per_query(self) -> int:
        """Number of negatives per query in a batch: none but the other images."""
        return 0

    @model_validator(mode="after")
    def _data_are_pairs(self) -> Self:
        if self.data.negatives_per_query:
            raise ValueError(
                "data.negatives_per_query: kind image_text learns from the images of the batch and"
                " reads no hard negatives; set it to 0"
            )
        if self.data.general:
            raise ValueError(
                "data.general names collections of texts, but kind image_text searches images;"
                " leave it out"
            )
        if self.data.corpus is not None:
            raise ValueError(
                "data.corpus holds texts, but kind image_text searches images; leave it out: all"
                " images of the validation and test sets are searched"
            )
        return self


Recipe = Annotated[
    BiEncoderRecipe | ColBERTRecipe | CrossEncoderRecipe | SparseRecipe | ImageTextRecipe,
    Field(discriminator="kind"),
]
RecipeClass = type[Recipe]

DEFAULT_KIND = "bi_encoder"
"""The `kind` of a recipe without this key."""
FAMILIES: dict[str, RecipeClass] = {
    "bi_encoder": BiEncoderRecipe,
    "colbert": ColBERTRecipe,
    "cross_encoder": CrossEncoderRecipe,
    "sparse": SparseRecipe,
    "image_text": ImageTextRecipe,
}
