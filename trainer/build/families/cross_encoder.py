"""What a recipe of kind cross_encoder is made of."""

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
    CrossEncoderObjective,
    DistillationObjective,
    LambdaLossObjective,
    ListwiseObjective,
    MarginMseObjective,
    PairwiseObjective,
    PointwiseObjective,
    RankingObjective,
)
from trainer.retrieval.bm25 import bm25_run


class CrossEncoderFamily(RecipeFamily[CrossEncoderRecipe, CrossEncoder]):
    """Models of one score per pair of query and document."""

    def build_model(self, run: CrossEncoderRecipe) -> CrossEncoder:
        """A transformer with a head of one score."""
        return build_cross_encoder(CrossEncoderSettings(**shared_settings(run.model)))

    def learning(
        self, run: CrossEncoderRecipe, encoder: CrossEncoder, teachers: Sequence[Teacher]
    ) -> Learning:
        """The objective; the head has its own learning rate."""
        objective, temperature = build_pair_objective(run.objective)
        return Learning(objective, temperature, is_head=encoder.is_head)

    def encode(self, run: CrossEncoderRecipe, encoder: CrossEncoder) -> Encode:
        """The encoder."""
        return encoder

    def collate(
        self, run: CrossEncoderRecipe, encoder: CrossEncoder, known: PositivesByQuery
    ) -> Collate:
        """Pairs of a query and each of its documents."""
        return partial(
            collate_pairs,
            tokenize=encoder.tokenize,
            tokenize_pairs=encoder.tokenize_pairs,
            known_positives=known,
            negatives_per_query=run.negatives_per_query,
        )

    def evaluate(self, run: CrossEncoderRecipe) -> Evaluate:
        """How the encoder orders what the first stage finds, which is looked up once per set."""
        return partial(
            evaluate_reranking,
            first_stage=_Once(first_stage(run)),
            precision=hardware.precision(run.machine),
            micro_batch_tokens=hardware.micro_batch_tokens(run.machine),
        )

    def random_negatives(
        self, run: CrossEncoderRecipe, rows: Rows, known: PositivesByQuery
    ) -> RandomNegatives | None:
        """What draws the negatives of rows, where the recipe asks for it."""
        count = run.random_negatives
        return RandomNegatives(rows, known, run.seed, count) if count else None


def ranking_loss(
    objective: PointwiseObjective | PairwiseObjective | ListwiseObjective | LambdaLossObjective,
) -> tuple[RankingLoss, Grades]:
    """The loss, and between which numbers it takes grades."""
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
    """The objective of a cross-encoder with its settings, and its temperature."""
    fixed = Temperature(1.0, is_learned=False)
    match settings:
        case RankingObjective():
            function, grades = ranking_loss(settings)
            return Ranking(function, grades if settings.graded else None), fixed
        case DistillationObjective():
            distillation = Distillation(gather_pair_scores, settings.teacher_temperature)
            return distillation, Temperature(settings.temperature, is_learned=False)
        case MarginMseObjective():
            return MarginMse(gather_pair_scores), fixed
        case _:
            assert_never(settings)


def first_stage(run: CrossEncoderRecipe) -> FirstStage:
    """What finds the documents of each query that a cross-encoder is to put in order: BM25, or a
    model, in float32 whatever the machine.
    """
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


class _Once:
    """A first stage that searches each set once."""

    def __init__(self, search: FirstStage) -> None:
        self._search = search
        self._runs: dict[str, RetrievalRun] = {}

    def __call__(self, judged_set: RetrievalSet) -> RetrievalRun:
        if judged_set.name not in self._runs:
            self._runs[judged_set.name] = self._search(judged_set)
        return self._runs[judged_set.name]
