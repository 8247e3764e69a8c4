"""The parts of a run of kind colbert."""

from dataclasses import replace
from typing import assert_never

from trainer.build.families.family import shared_settings
from trainer.build.families.vectors import VectorFamily
from trainer.models.late_interaction import (
    LateInteractionEncoder,
    LateInteractionSettings,
    build_late_interaction_encoder,
)
from trainer.modules.retriever import Temperature
from trainer.objectives.contrastive import Contrastive
from trainer.objectives.objective import Objective
from trainer.recipe.schema.families import ColBERTRecipe
from trainer.recipe.schema.model import ColBERTModel
from trainer.recipe.schema.objective import ColBERTContrastiveObjective
from trainer.scores import Score, maxsim, maxsim_in_pieces, plain_maxsim, xtr


class ColBERT(VectorFamily[ColBERTRecipe, LateInteractionEncoder]):
    """Builds runs of models with one vector per token (late interaction)."""

    def build_model(self, run: ColBERTRecipe) -> LateInteractionEncoder:
        """Builds a transformer with a projection of each token."""
        return build_late_interaction_encoder(late_interaction_settings(run.model))

    def score(self, run: ColBERTRecipe) -> Score:
        """Returns MaxSim."""
        match run.machine.maxsim:
            case "auto":
                return maxsim
            case "pieces":
                return maxsim_in_pieces
            case "plain":
                return plain_maxsim
            case _:
                assert_never(run.machine.maxsim)

    def objective(
        self, run: ColBERTRecipe, encoder: LateInteractionEncoder
    ) -> tuple[Objective, Temperature]:
        """Returns the objective of the recipe, with XTR's scores if requested, and its
        temperature.
        """
        objective, temperature = super().objective(run, encoder)
        settings = run.objective
        if isinstance(settings, ColBERTContrastiveObjective) and settings.xtr_top_k is not None:
            assert isinstance(objective, Contrastive)
            objective = replace(objective, score=xtr, xtr_top_k=settings.xtr_top_k)
        return objective, temperature


def late_interaction_settings(model: ColBERTModel) -> LateInteractionSettings:
    """Returns the settings of a model with one vector per token."""
    late = model.late_interaction
    return LateInteractionSettings(
        **shared_settings(model),
        layers=model.layers,
        projection_dimensions=model.projection_dimensions,
        query_marker=late.query_marker,
        document_marker=late.document_marker,
        query_expansion=late.query_expansion,
        attend_to_expansion=late.attend_to_expansion,
        skip_punctuation=late.skip_punctuation,
    )
