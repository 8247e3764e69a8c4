"""What a recipe of kind bi_encoder is made of."""

import numpy as np
import torch

from trainer.build import hardware
from trainer.build.families.family import shared_settings
from trainer.build.families.vectors import VectorFamily
from trainer.build.students import ROLES, some_texts
from trainer.data.rows import Rows
from trainer.errors import BadData, BadRecipe
from trainer.microbatches import in_microbatches
from trainer.models.dense import DenseEncoder, DenseSettings, build_dense_encoder, read_encoder
from trainer.models.parts.principal import principal_directions
from trainer.models.static_student import StaticSettings, build_static_encoder
from trainer.objectives.exclusions import Exclusion, Outscoring
from trainer.objectives.matryoshka import once_per_batch
from trainer.recipe.schema.families import BiEncoderRecipe
from trainer.recipe.schema.model import BiEncoderModel, StaticSection
from trainer.recipe.schema.objective import BiEncoderContrastiveObjective
from trainer.retrieval.encoding.encode import encode
from trainer.scores import Score, dot


class BiEncoder(VectorFamily[BiEncoderRecipe, DenseEncoder]):
    """Models of one vector per text."""

    def build_model(self, run: BiEncoderRecipe) -> DenseEncoder:
        """A transformer with pooling, or a table of token vectors."""
        if run.model.static is not None:
            return build_static_encoder(static_settings(run.model, run.model.static))
        return build_dense_encoder(dense_settings(run.model))

    def score(self, run: BiEncoderRecipe) -> Score:
        """The dot product."""
        return dot

    def is_normalized(self, encoder: DenseEncoder) -> bool:
        """Whether the contract says so."""
        return encoder.contract.normalize

    def exclusions(self, run: BiEncoderRecipe, encoder: DenseEncoder) -> list[Exclusion]:
        """What leaves out negatives that are probably right. Raises BadRecipe for a guide with
        another tokenizer than the encoder's.
        """
        exclusions, objective = super().exclusions(run, encoder), run.objective
        if not isinstance(objective, BiEncoderContrastiveObjective) or objective.guide is None:
            return exclusions
        guide = read_encoder(objective.guide).to(hardware.device(run.machine)).requires_grad_(False)
        if guide.contract.tokenizer_fingerprint != encoder.contract.tokenizer_fingerprint:
            raise BadRecipe(
                f"objective.guide={objective.guide} cuts texts into other tokens than"
                f" {run.model.backbone}, and a batch holds the tokens of one; take a guide with the"
                " same tokenizer, such as a larger model of the same family or the model before"
                " training"
            )
        in_parts = in_microbatches(guide, hardware.micro_batch_tokens(run.machine))
        return [*exclusions, once_per_batch(Outscoring(in_parts, objective.guide_margin))]

    def start(self, run: BiEncoderRecipe, encoder: DenseEncoder, rows: Rows) -> None:
        """Puts the new projection on the principal directions of training texts where the recipe
        asks for it.

        Raises BadData when there are fewer texts than directions, and BadRecipe when the projection
        is the folder's own, or matryoshka does not fit the model.
        """
        super().start(run, encoder, rows)
        if run.model.projection_start == "orthogonal":
            return
        projection = encoder.projection
        if projection is None or not projection.is_new:
            raise BadRecipe(
                f"model.projection_start=pca would undo what is learned: {run.model.backbone} has a"
                f" projection to {encoder.dimensions} dimensions already; set"
                " model.projection_start to orthogonal, which leaves it, or another"
                " model.projection_dimensions"
            )
        if projection.out_features > projection.in_features:
            raise BadRecipe(
                f"model.projection_start=pca finds at most {projection.in_features} directions, the"
                f" width of the backbone, and model.projection_dimensions asks for"
                f" {projection.out_features}; ask for fewer, or set model.projection_start to"
                " orthogonal"
            )
        encoder.to(hardware.device(run.machine))
        tokens = hardware.micro_batch_tokens(run.machine)
        without_projection = encoder.without_projection()
        vectors = [
            encode(without_projection, some_texts(rows, role), role, tokens).rows for role in ROLES
        ]
        together = torch.from_numpy(np.concatenate(vectors))
        if len(together) < projection.out_features:
            raise BadData(
                f"{len(together)} distinct training texts do not span {projection.out_features}"
                " directions; give more, or fewer dimensions"
            )
        directions = principal_directions(together, projection.out_features)
        projection.load_state_dict({"weight": directions})


def dense_settings(model: BiEncoderModel) -> DenseSettings:
    """The settings of a model of one vector per text."""
    return DenseSettings(
        **shared_settings(model),
        layers=model.layers,
        pooling=model.pooling,
        projection_dimensions=model.projection_dimensions,
        normalize=model.normalize,
    )


def static_settings(model: BiEncoderModel, static: StaticSection) -> StaticSettings:
    """The settings of a table of token vectors."""
    return StaticSettings(
        backbone=model.backbone,
        dimensions=static.dimensions,
        start=static.start,
        normalize=model.normalize,
        query_prompt=model.query_prompt,
        document_prompt=model.document_prompt,
    )
