"""What a recipe of kind cross_encoder is made of, beside what every family needs."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import assert_never

from trainer.batch import Batch
from trainer.build import hardware
from trainer.data.collate import collate
from trainer.data.collate_pairs import collate_pairs
from trainer.data.random_negatives import RandomNegatives
from trainer.data.retrieval_set import RetrievalSet
from trainer.data.rows import Row, Rows
from trainer.evaluation.evaluate import CANDIDATES, Candidates, evaluate, retrieve
from trainer.evaluation.metrics import RetrievalRun
from trainer.models.cross_encoder import CrossEncoder
from trainer.models.encoder import Encoder
from trainer.models.families import read_model
from trainer.modules.retriever import Temperature
from trainer.objectives import ranking_losses
from trainer.objectives.candidates import Distillation, MarginMse, gather_pair_scores
from trainer.objectives.objective import Objective
from trainer.objectives.ranking import Grades, Ranking, RankingLoss
from trainer.recipe.schema.families import CrossEncoderRecipe, Recipe
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
from trainer.strategies.devices import Precision


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


def random_negatives(
    run: Recipe, rows: Rows, known: Mapping[int, frozenset[int]]
) -> RandomNegatives | None:
    """What draws the negatives of rows, where the recipe asks for it."""
    count = run.random_negatives if isinstance(run, CrossEncoderRecipe) else 0
    return RandomNegatives(rows, known, run.seed, count) if count else None


def collation(
    run: Recipe, encoder: Encoder, known: Mapping[int, frozenset[int]]
) -> Callable[[Sequence[Row]], Batch]:
    """Rows to a batch of the family's form: texts by themselves, or pairs."""
    if isinstance(encoder, CrossEncoder):
        return partial(
            collate_pairs,
            tokenize=encoder.tokenize,
            tokenize_pairs=encoder.tokenize_pairs,
            known_positives=known,
            negatives_per_query=run.negatives_per_query,
        )
    return partial(
        collate,
        tokenize=encoder.tokenize,
        known_positives=known,
        negatives_per_query=run.negatives_per_query,
    )


def candidates(run: Recipe) -> Candidates:
    """What finds the documents of each query that a cross-encoder is to put in order: BM25, or a
    model, in float32 whatever the machine.
    """
    depth, name = CANDIDATES, None
    if isinstance(run, CrossEncoderRecipe):
        depth, name = run.validation.rerank_depth or CANDIDATES, run.validation.first_stage
    if name is None:
        return partial(bm25_run, k=depth)

    def by_model(held_out: RetrievalSet) -> RetrievalRun:
        return retrieve(
            read_model(name).to(hardware.device(run.machine)),
            held_out,
            depth,
            "fp32",
            hardware.micro_batch_tokens(run.machine),
        )

    return by_model


class Validation:
    """Metrics of a cross-encoder on held-out queries: how it orders what the first stage finds for
    them, which is looked up once.
    """

    def __init__(
        self, encoder: CrossEncoder, how: Precision, micro_batch_tokens: int, candidates: Candidates
    ) -> None:
        self._encoder, self._how, self._tokens, self._candidates = (
            encoder,
            how,
            micro_batch_tokens,
            candidates,
        )
        self._found: dict[str, RetrievalRun] = {}

    def __call__(self, held_out: RetrievalSet) -> Mapping[str, float]:
        """Mean metrics by name."""
        if held_out.name not in self._found:
            self._found[held_out.name] = self._candidates(held_out)
        found = self._found[held_out.name]
        metrics = evaluate(
            self._encoder,
            held_out,
            100,
            "validation",
            self._how,
            self._tokens,
            candidates=lambda _: found,
        ).metrics
        return {name: float(values.mean()) for name, values in metrics.items()}
