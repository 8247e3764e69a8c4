"""The family of a recipe. A new family is one line here."""

from typing import Any, assert_never

import pytorch_lightning as lightning

from trainer.build.families.bi_encoder import BiEncoder
from trainer.build.families.colbert import ColBERT
from trainer.build.families.cross_encoder import CrossEncoderFamily
from trainer.build.families.family import RecipeFamily
from trainer.build.families.image_text import ImageText
from trainer.build.families.sparse import Sparse
from trainer.models.encoder import Encoder
from trainer.recipe.schema.families import (
    BiEncoderRecipe,
    ColBERTRecipe,
    CrossEncoderRecipe,
    ImageTextRecipe,
    Recipe,
    SparseRecipe,
)


def family_of(run: Recipe) -> RecipeFamily[Any, Any]:
    """Returns the family of a recipe."""
    match run:
        case BiEncoderRecipe():
            return BiEncoder()
        case ColBERTRecipe():
            return ColBERT()
        case CrossEncoderRecipe():
            return CrossEncoderFamily()
        case SparseRecipe():
            return Sparse()
        case ImageTextRecipe():
            return ImageText()
        case _:
            assert_never(run)


def build_model(run: Recipe) -> Encoder:
    """Builds the model that a recipe trains, in training mode. Raises BadModel.

    New weights are drawn from the recipe's seed.
    """
    lightning.seed_everything(run.seed, verbose=False)
    encoder: Encoder = family_of(run).build_model(run)
    return encoder
