"""The parts of a run of kind image_text."""

from collections.abc import Sequence
from functools import partial
from typing import assert_never

from trainer.build import hardware
from trainer.build.families.family import (
    Collate,
    Evaluate,
    Learning,
    PositivesByQuery,
    RecipeFamily,
    shared_settings,
)
from trainer.build.objective import build_objective, learned_bias
from trainer.data.collate import collate
from trainer.evaluation.image_text import evaluate_image_text
from trainer.microbatches import Encode
from trainer.models.towers.checkpoint import ImageTextSettings
from trainer.models.towers.image_text import ImageTextEncoder
from trainer.models.towers.two_towers import (
    DIMENSIONS,
    TwoTowerSettings,
    build_stored_towers,
    build_two_tower_encoder,
)
from trainer.models.towers.vision import NewTower, StoredTower
from trainer.objectives.teachers import Teacher
from trainer.recipe.schema.families import ImageTextRecipe
from trainer.recipe.schema.towers.image_text import NewImageTower, StoredImageTower
from trainer.scores import dot


class ImageText(RecipeFamily[ImageTextRecipe, ImageTextEncoder]):
    """Builds runs of models that compare images with captions."""

    def build_model(self, run: ImageTextRecipe) -> ImageTextEncoder:
        """Builds the two towers of a checkpoint, or puts two models together."""
        model, settings = run.model, shared_settings(run.model)
        match model.image_tower:
            case None:
                return build_stored_towers(
                    ImageTextSettings(**settings, frozen_tower=model.frozen_tower)
                )
            case StoredImageTower():
                tower: StoredTower | NewTower = StoredTower(
                    model.image_tower.backbone, model.image_tower.train_all
                )
            case NewImageTower():
                tower = NewTower(**model.image_tower.model_dump(exclude={"kind"}))
            case _:
                assert_never(model.image_tower)
        return build_two_tower_encoder(
            TwoTowerSettings(
                **settings,
                frozen_tower=model.frozen_tower,
                image_tower=tower,
                projection_dimensions=model.projection_dimensions or DIMENSIONS,
            )
        )

    def learning(
        self,
        run: ImageTextRecipe,
        encoder: ImageTextEncoder,
        teachers: Sequence[Teacher],
        steps: int,
    ) -> Learning:
        """Returns the objective: captions are the queries, images the documents."""
        objective, temperature = build_objective(run.objective, dot)
        return Learning(objective, temperature, learned_bias(objective), encoder.is_head)

    def encode(self, run: ImageTextRecipe, encoder: ImageTextEncoder) -> Encode:
        """Returns the encoder."""
        return encoder

    def collate(
        self, run: ImageTextRecipe, encoder: ImageTextEncoder, positives: PositivesByQuery
    ) -> Collate:
        """Returns the function that makes batches: it decodes the images ahead of the step."""
        return partial(
            collate, tokenize=encoder.tokenize, known_positives=positives, negatives_per_query=0
        )

    def evaluate(self, run: ImageTextRecipe) -> Evaluate:
        """Returns the function that measures both directions, among all images of the set."""
        return partial(
            evaluate_image_text,
            precision=hardware.precision(run.machine),
            micro_batch_tokens=hardware.micro_batch_tokens(run.machine),
        )
