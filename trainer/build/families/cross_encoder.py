"""The parts of a run of kind cross_encoder."""

import math
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
from trainer.data.collate_pairs import collate_pairs
from trainer.data.random_negatives import RandomNegatives
from trainer.data.retrieval_set import RetrievalSet
from trainer.data.rows import Rows
from trainer.evaluation.evaluate import CANDIDATES, FirstStage, evaluate_reranking, retrieve
from trainer.evaluation.metrics import RetrievalRun
from trainer.microbatches import Encode
from trainer.models.cross_encoder import CrossEncoder, CrossEncoderSettings, build_cross_encoder
from trainer.models.families import read_model
from trainer.modules.retriever import Temperature
from trainer.objectives import ranking_losses
from trainer.objectives.candidates import Distillation, MarginMse, gather_pair_scores
from trainer.objectives.objective import Objective
from trainer.objectives.ranking import Grades, Ranking, RankingLoss
from trainer.objectives.teachers import Teacher
from trainer.recipe.schema.families import CrossEncoderRecipe
from trainer.recipe.schema.objective import (
    DistillationObjective,
    MarginMseObjective,
)
from trainer.recipe.schema.ranking import (
    CrossEncoderObjective,
    LambdaLossObjective,
    ListwiseObjective,
    PairwiseObjective,
    PointwiseObjective,
    RankingObjective,
)
from trainer.retrieval.bm25 import bm25_run


class CrossEncoderFamily(RecipeFamily[CrossEncoderRecipe, CrossEncoder]):
    """Builds runs of models with one score per pair of query and document."""

    def build_model(self, run: CrossEncoderRecipe) -> CrossEncoder:
        """Builds a transformer with a head that gives one score."""
        return build_cross_encoder(CrossEncoderSettings(**shared_settings(run.model)))

    def learning(
        self,
        run: CrossEncoderRecipe,
        encoder: CrossEncoder,
        teachers: Sequence[Teacher],
        steps: int,
    ) -> Learning:
        """Returns the objective; the head has its own learning rate."""
        objective, temperature = build_pair_objective(run.objective)
        return Learning(objective, temperature, is_head=encoder.is_head)

    def encode(self, run: CrossEncoderRecipe, encoder: CrossEncoder) -> Encode:
        """Returns the encoder."""
        return encoder

    def collate(
        self, run: CrossEncoderRecipe, encoder: CrossEncoder, positives: PositivesByQuery
    ) -> Collate:
        """Returns the function that makes batches of pairs of a query and a document."""
        return partial(
            collate_pairs,
            tokenize=encoder.tokenize,
            tokenize_pairs=encoder.tokenize_pairs,
            known_positives=positives,
            negatives_per_query=run.negatives_per_query,
        )

    def evaluate(self, run: CrossEncoderRecipe) -> Evaluate:
        """Returns the function that measures re-ranking; the first stage searches each set once."""
        return partial(
            evaluate_reranking,
            first_stage=_CachedFirstStage(first_stage(run)),
            precision=hardware.precision(run.machine),
            micro_batch_tokens=hardware.micro_batch_tokens(run.machine),
        )

    def documents_per_validation(self, run: CrossEncoderRecipe, validation: RetrievalSet) -> int:
        """Returns the number of pairs of a query and a document that are re-ranked."""
        return len(validation.queries) * (run.validation.rerank_depth or CANDIDATES)

    def random_negatives(
        self, run: CrossEncoderRecipe, rows: Rows, positives: PositivesByQuery
    ) -> RandomNegatives | None:
        """Returns the sampler of random negatives, if the recipe has any."""
        count = run.random_negatives
        return RandomNegatives(rows, positives, run.seed, count) if count else None


def ranking_loss(
    objective: PointwiseObjective | PairwiseObjective | ListwiseObjective | LambdaLossObjective,
) -> tuple[RankingLoss, Grades]:
    """Returns the loss, and the range of grades that it accepts."""
    match objective:
        case PointwiseObjective():
            return ranking_losses.binary_cross_entropy, (0.0, 1.0)
        case PairwiseObjective():
            return ranking_losses.rank_net, (-math.inf, math.inf)
        case ListwiseObjective():
            return ranking_losses.softmax_cross_entropy, (0.0, math.inf)
        case LambdaLossObjective():
            return ranking_losses.lambda_loss, (0.0, 30.0)
        case _:
            assert_never(objective)


def build_pair_objective(settings: CrossEncoderObjective) -> tuple[Objective, Temperature]:
    """Returns the objective of a cross-encoder, and its temperature."""
    constant_temperature = Temperature(1.0, is_learned=False)
    match settings:
        case RankingObjective():
            function, grades = ranking_loss(settings)
            return Ranking(function, grades if settings.graded else None), constant_temperature
        case DistillationObjective():
            distillation = Distillation(gather_pair_scores, settings.teacher_temperature)
            return distillation, Temperature(settings.temperature, is_learned=False)
        case MarginMseObjective():
            return MarginMse(gather_pair_scores), constant_temperature
        case _:
            assert_never(settings)


def first_stage(run: CrossEncoderRecipe) -> FirstStage:
    """Returns the search whose documents a cross-encoder re-ranks: BM25, or a model in float32."""
    validation = run.validation
    name, depth = validation.first_stage, validation.rerank_depth or CANDIDATES
    if name is None:
        return partial(bm25_run, k=depth)

    def by_model(judged_set: RetrievalSet) -> RetrievalRun:
        return retrieve(
            read_model(name).to(hardware.device(run.machine)),
            judged_set,
            depth,
            "fp32",
            hardware.micro_batch_tokens(run.machine),
        )

    return by_model


class _CachedFirstStage:
    """A first stage that searches each set only once."""

    def __init__(self, search: FirstStage) -> None:
        self._search = search
        self._runs: dict[str, RetrievalRun] = {}

    def __call__(self, judged_set: RetrievalSet) -> RetrievalRun:
        if judged_set.name not in self._runs:
            self._runs[judged_set.name] = self._search(judged_set)
        return self._runs[judged_set.name]
