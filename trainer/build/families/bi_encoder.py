"""The parts of a run of kind bi_encoder."""

import numpy as np
import torch

from trainer.build import hardware
from trainer.build.families.family import shared_settings
from trainer.build.families.vectors import VectorFamily
from trainer.build.students import ROLES, sample_texts
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
    """Builds runs of models with one vector per text."""

    def build_model(self, run: BiEncoderRecipe) -> DenseEncoder:
        """Builds a transformer with pooling, or a table of token vectors."""
        if run.model.static is not None:
            return build_static_encoder(static_settings(run.model, run.model.static))
        return build_dense_encoder(dense_settings(run.model))

    def score(self, run: BiEncoderRecipe) -> Score:
        """Returns the dot product."""
        return dot

    def is_normalized(self, encoder: DenseEncoder) -> bool:
        """Returns true when the contract normalises vectors."""
        return encoder.contract.normalize

    def exclusions(self, run: BiEncoderRecipe, encoder: DenseEncoder) -> list[Exclusion]:
        """Returns the exclusions of negatives that are probably right answers.

        Raises BadRecipe when the guide has another tokenizer than the encoder.
        """
        exclusions, objective = super().exclusions(run, encoder), run.objective
        if not isinstance(objective, BiEncoderContrastiveObjective) or objective.guide is None:
            return exclusions
        guide = read_encoder(objective.guide).to(hardware.device(run.machine)).requires_grad_(False)
        if guide.contract.tokenizer_fingerprint != encoder.contract.tokenizer_fingerprint:
            raise BadRecipe(
                f"objective.guide={objective.guide} has another tokenizer than"
                f" {run.model.backbone}, but both read the same tokens of a batch; use a guide with"
                " the same tokenizer, such as a larger model of the same family or the model before"
                " training"
            )
        tokens = hardware.micro_batch_tokens(run.machine)
        in_parts = in_microbatches(guide, tokens, is_padded=guide.is_padded)
        return [*exclusions, once_per_batch(Outscoring(in_parts, objective.guide_margin))]

    def start(self, run: BiEncoderRecipe, encoder: DenseEncoder, rows: Rows) -> None:
        """Sets a new projection to the principal directions of training texts, if requested.

        Raises BadData when there are fewer texts than directions. Raises BadRecipe when the
        projection is already trained, or matryoshka does not fit the model.
        """
        super().start(run, encoder, rows)
        if run.model.projection_start == "orthogonal":
            return
        projection = encoder.projection
        if projection is None or not projection.is_new:
            raise BadRecipe(
                f"model.projection_start=pca would replace a trained projection:"
                f" {run.model.backbone} already has one to {encoder.dimensions} dimensions; set"
                " model.projection_start to orthogonal, which keeps it, or choose another"
                " model.projection_dimensions"
            )
        if projection.out_features > projection.in_features:
            raise BadRecipe(
                f"model.projection_start=pca finds at most {projection.in_features} directions, the"
                f" width of the backbone, but model.projection_dimensions is"
                f" {projection.out_features}; use a smaller value, or set model.projection_start to"
                " orthogonal"
            )
        encoder.to(hardware.device(run.machine))
        tokens = hardware.micro_batch_tokens(run.machine)
        without_projection = encoder.without_projection()
        vectors = [
            encode(without_projection, sample_texts(rows, role), role, tokens).rows
            for role in ROLES
        ]
        all_vectors = torch.from_numpy(np.concatenate(vectors))
        if len(all_vectors) < projection.out_features:
            raise BadData(
                f"{len(all_vectors)} distinct training texts do not span {projection.out_features}"
                " directions; give more texts, or fewer dimensions"
            )
        directions = principal_directions(all_vectors, projection.out_features)
        projection.load_state_dict({"weight": directions})


def dense_settings(model: BiEncoderModel) -> DenseSettings:
    """Returns the settings of a model with one vector per text."""
    return DenseSettings(
        **shared_settings(model),
        layers=model.layers,
        pooling=model.pooling,
        projection_dimensions=model.projection_dimensions,
        normalize=model.normalize,
    )


def static_settings(model: BiEncoderModel, static: StaticSection) -> StaticSettings:
    """Returns the settings of a table of token vectors."""
    return StaticSettings(
        backbone=model.backbone,
        dimensions=static.dimensions,
        start=static.start,
        normalize=model.normalize,
        query_prompt=model.query_prompt,
        document_prompt=model.document_prompt,
    )
