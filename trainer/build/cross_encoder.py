"""What a recipe of kind cross_encoder is made of, beside what every family needs."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import assert_never

from jaxtyping import Float
from torch import Tensor

from trainer import losses
from trainer.batch import Batch
from trainer.build import hardware
from trainer.data.collate import collate
from trainer.data.collate_pairs import collate_pairs
from trainer.data.random_negatives import RandomNegatives
from trainer.data.retrieval_set import RetrievalSet
from trainer.data.rows import Row, Rows
from trainer.errors import BadData, BadRecipe
from trainer.evaluation.evaluate import CANDIDATES, Candidates, evaluate, retrieve
from trainer.evaluation.metrics import RetrievalRun
from trainer.microbatches import Encode
from trainer.models.cross_encoder import CrossEncoder
from trainer.models.encoder import Encoder
from trainer.models.families import read_model
from trainer.modules.bi_encoder import Loss, Temperature
from trainer.objectives import ranking, ranking_losses
from trainer.objectives.contrastive import Outcome
from trainer.objectives.ranking import Grades, RankingLoss, TaughtLoss
from trainer.recipe import schema as recipe
from trainer.retrieval.bm25 import bm25_run
from trainer.retrieval.vectors.encode import Precision

KINDS = "pointwise, pairwise, listwise, lambda_loss, distillation or margin_mse"


def ranking_loss(
    objective: recipe.Pointwise | recipe.Pairwise | recipe.Listwise | recipe.LambdaLoss,
) -> tuple[RankingLoss, Grades]:
    """The loss, and between which numbers it takes grades."""
    match objective:
        case recipe.Pointwise():
            return ranking_losses.binary_cross_entropy, (0.0, 1.0)
        case recipe.Pairwise():
            return ranking_losses.rank_net, (-math.inf, math.inf)
        case recipe.Listwise():
            return ranking_losses.softmax_cross_entropy, (0.0, math.inf)
        case recipe.LambdaLoss():
            return ranking_losses.lambda_loss, (0.0, 30.0)
        case _:
            assert_never(objective)


def loss(objective: recipe.Objective) -> tuple[Loss, Temperature]:
    """The objective with its settings filled in, and its temperature. Raises BadRecipe for one that
    needs vectors.
    """
    match objective:
        case recipe.Ranking():
            function, grades = ranking_loss(objective)
            return partial(_ranking, function, grades if objective.graded else None), Temperature(
                1.0, learned=False
            )
        case recipe.Distillation():
            return partial(_distillation, objective.teacher_temperature), Temperature(
                objective.temperature, learned=False
            )
        case recipe.MarginMse():
            return partial(_taught, losses.margin_mse), Temperature(1.0, learned=False)
        case _:
            raise BadRecipe(
                f"objective.kind={objective.kind} compares vectors, which a cross-encoder has "
                f"not; use {KINDS}"
            )


def _ranking(
    function: RankingLoss, grades: Grades | None, batch: Batch, encode: Encode, _: Tensor
) -> Outcome:
    return ranking.ranking(batch, encode, function, grades)


def _distillation(
    teacher_temperature: float, batch: Batch, encode: Encode, temperature: Float[Tensor, ""]
) -> Outcome:
    return ranking.taught(
        batch,
        encode,
        lambda scores, teacher: losses.kl(scores / temperature, teacher / teacher_temperature),
    )


def _taught(function: TaughtLoss, batch: Batch, encode: Encode, _: Tensor) -> Outcome:
    return ranking.taught(batch, encode, function)


def check_recipe(run: recipe.Recipe) -> None:
    """Raises BadRecipe where a recipe sets what its kind of model does not have, or candidates that
    are none.
    """
    model, objective = run.model, run.objective
    if run.kind != "cross_encoder":
        _check_none_of_it(run)
        return
    for key in ("pooling", "normalize", "projection_dimensions", "late_interaction", "static"):
        if getattr(model, key) is not None:
            raise BadRecipe(
                f"model.{key} shapes vectors, which a cross-encoder has not; take it out, or "
                f"change the kind"
            )
    for key, given in (
        ("model.layers", model.layers),
        ("teacher", run.teacher),
        ("matryoshka", run.matryoshka),
    ):
        if given is not None:
            raise BadRecipe(
                f"{key} belongs to kind: bi_encoder or colbert; a cross-encoder is the whole "
                f"backbone and learns from scores; take it out"
            )
    loss(objective)
    drawn, given = getattr(objective, "random_negatives", 0), run.data.negatives_per_query
    if drawn and given:
        raise BadRecipe(
            f"objective.random_negatives={drawn} is for data without negatives, and "
            f"data.negatives_per_query is {given}; set one of them to 0"
        )
    if drawn and getattr(objective, "graded", False):
        raise BadRecipe(
            "objective.graded takes the data's scores, which negatives drawn at random have not; "
            "set objective.random_negatives to 0"
        )
    if drawn >= run.optimization.batch_size:
        raise BadRecipe(
            f"objective.random_negatives={drawn} are drawn from the other rows of a batch of "
            f"{run.optimization.batch_size}; "
            f"set it to at most {run.optimization.batch_size - 1}, or enlarge the batch"
        )
    if (
        not drawn
        and not given
        and not (isinstance(objective, recipe.Pointwise) and objective.graded)
    ):
        raise BadRecipe(
            f"objective.kind={objective.kind} compares a query's own candidates, and there is "
            f"only the positive; "
            "set objective.random_negatives, or data.negatives_per_query where the data have hard "
            "negatives"
        )


def _check_none_of_it(run: recipe.Recipe) -> None:
    """Raises BadRecipe where a recipe of another kind sets what only a cross-encoder has."""
    if isinstance(run.objective, recipe.Ranking):
        raise BadRecipe(
            f"objective.kind={run.objective.kind} belongs to kind: cross_encoder, and this recipe "
            f"is of kind {run.kind}; change one of them"
        )
    for key in ("first_stage", "rerank_depth"):
        if getattr(run.validation, key) is not None:
            raise BadRecipe(
                f"validation.{key} belongs to kind: cross_encoder; a model of kind {run.kind} "
                f"searches all documents, so take it out"
            )


def check_grades(run: recipe.Recipe, source: str, first: Row) -> None:
    """Raises BadData where the first row of a data set lacks the scores that a graded objective
    takes.
    """
    if not isinstance(run.objective, recipe.Ranking) or not run.objective.graded:
        return
    wanted = 1 + len(first.negatives) if run.data.negatives_per_query else 1
    if first.labels is None or len(first.labels) != wanted:
        raise BadData(
            f"objective.graded=true needs a score of every candidate, the positive's first, and "
            f"{source} has {len(first.labels or ())} for {wanted}; "
            "give them in the column `scores` (`score` for single pairs), or set objective.graded "
            "to false"
        )


def negatives_per_query(run: recipe.Recipe) -> int:
    """How many negatives a query has: of the data and mined, or drawn at random."""
    return run.negatives_per_query or getattr(run.objective, "random_negatives", 0)


def random_negatives(
    run: recipe.Recipe, rows: Rows, known: Mapping[int, frozenset[int]]
) -> RandomNegatives | None:
    """What draws the negatives of rows, where the recipe asks for it."""
    count = getattr(run.objective, "random_negatives", 0)
    return RandomNegatives(rows, known, run.seed, count) if count else None


def collation(
    run: recipe.Recipe, encoder: Encoder, known: Mapping[int, frozenset[int]]
) -> Callable[[Sequence[Row]], Batch]:
    """Rows to a batch of the family's form: texts by themselves, or pairs."""
    count = negatives_per_query(run)
    if isinstance(encoder, CrossEncoder):
        return partial(
            collate_pairs,
            tokenize=encoder.tokenize,
            tokenize_pairs=encoder.tokenize_pairs,
            known_positives=known,
            negatives_per_query=count,
        )
    return partial(
        collate, tokenize=encoder.tokenize, known_positives=known, negatives_per_query=count
    )


def candidates(run: recipe.Recipe) -> Candidates:
    """What finds the documents of each query that a cross-encoder is to put in order: BM25, or a
    model, in float32 whatever the machine.
    """
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
