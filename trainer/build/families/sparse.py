"""The parts of a run of kind sparse."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from trainer.build.families.family import Learning, shared_settings
from trainer.build.families.vectors import VectorFamily
from trainer.models.sparse import SparseEncoder, SparseSettings, build_sparse_encoder
from trainer.objectives.regularizers.flops import RegularizedObjective
from trainer.objectives.teachers import Teacher
from trainer.recipe.schema.families import SparseRecipe
from trainer.scores import Score, dot


class Sparse(VectorFamily[SparseRecipe, SparseEncoder]):
    """Builds runs of models with one weight per word of the vocabulary (SPLADE)."""

    def build_model(self, run: SparseRecipe) -> SparseEncoder:
        """Builds a masked language model whose head gives a maximum per text and word."""
        return build_sparse_encoder(
            SparseSettings(**shared_settings(run.model), layers=run.model.layers)
        )

    def score(self, run: SparseRecipe) -> Score:
        """Returns the dot product."""
        return dot

    def learning(
        self,
        run: SparseRecipe,
        encoder: SparseEncoder,
        teachers: Sequence[Teacher],
        steps: int,
    ) -> Learning:
        """Returns the objective with the lesson of the teachers and the regulariser."""
        learning = super().learning(run, encoder, teachers, steps)
        settings = run.regularizer
        objective = RegularizedObjective(
            learning.objective,
            settings.query_weight,
            settings.document_weight,
            round(settings.warmup_ratio * steps),
            settings.free_terms,
        )
        return replace(
            learning,
            objective=objective,
            check=partial(objective.check, vocabulary=encoder.dimensions),
        )
