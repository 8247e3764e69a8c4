"""Objectives of a cross-encoder: it scores each query's own candidates, so it joins at the scores,
and nothing is compared across the batch.

As in `trainer.objectives.contrastive`, an objective returns the same on every rank, that of the
whole global batch.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from trainer.batch import Batch
from trainer.collectives import gather, of_all
from trainer.errors import BadData
from trainer.microbatches import Encode
from trainer.objectives.contrastive import Outcome

RankingLoss = Callable[
    [
        Float[Tensor, "query candidate"],
        Float[Tensor, "query candidate"],
        Bool[Tensor, "query candidate"],
    ],
    Float[Tensor, ""],
]
"""Scores, relevance and what is excluded to a scalar: `trainer.objectives.ranking_losses`."""
TaughtLoss = Callable[
    [Float[Tensor, "query candidate"], Float[Tensor, "query candidate"]], Float[Tensor, ""]
]
"""Scores and a teacher's scores to a scalar: `trainer.losses.kl`, `trainer.losses.margin_mse`."""
Grades = tuple[float, float]
"""Between which numbers, themselves included, a loss takes grades of relevance."""


def ranking(
    batch: Batch, encode: Encode, loss: RankingLoss, grades: Grades | None = None
) -> Outcome:
    """The loss over each query's own candidates: the first is right and the others are not, but for
    those that identity knows to be right too.

    With `grades` the batch's labels are the relevance instead, and nothing is left out. Raises
    BadData for a label that is no such grade.
    """
    scores = candidate_scores(batch, encode)
    if grades is not None:
        relevance, excluded = (
            _relevance(batch, grades).to(scores),
            torch.zeros_like(scores, dtype=torch.bool),
        )
    else:
        relevance = torch.zeros_like(scores)
        relevance[:, 0] = 1.0
        excluded = gather(_also_right(batch)).to(scores.device)
    return {
        "loss": loss(scores, relevance, excluded),
        "masked_false_negatives": excluded.sum().to(scores),
    }


def taught(batch: Batch, encode: Encode, loss: TaughtLoss) -> Outcome:
    """The loss between the scores of each query's own candidates and a teacher's, the batch's
    labels.
    """
    scores = candidate_scores(batch, encode)
    return {"loss": loss(scores, _labels(batch).to(scores))}


def candidate_scores(batch: Batch, encode: Encode) -> Float[Tensor, "query candidate"]:
    """The scores of every query's own candidates, of the global batch; `encode` gives one a
    pair.
    """
    return gather(encode(batch.documents).unflatten(0, (len(batch.queries), -1)))


def _also_right(batch: Batch) -> Bool[Tensor, "query candidate"]:
    """True where a candidate is known to be right, or the query's own text, and is not in the
    positive's place.
    """
    pairs = batch.documents.identities.unflatten(0, (len(batch.queries), -1))
    found = (pairs[:, :, None] == batch.known_positives[:, None, :]).any(2)
    found[:, 0] = False
    return found


def _labels(batch: Batch) -> Float[Tensor, "query candidate"]:
    if batch.labels is None:
        raise ValueError(
            "this objective compares with grades or a teacher; this batch has no labels"
        )
    return gather(batch.labels)


def _relevance(batch: Batch, grades: Grades) -> Float[Tensor, "query candidate"]:
    labels, (lowest, highest) = _labels(batch), grades
    bad = ~((labels >= lowest) & (labels <= highest)).all(1)  # NaN too
    if bad.any():
        row = int(bad.nonzero()[0])
        rows = of_all(batch.sample_ids)
        where = rows[row] if row < len(rows) else f"row {row} of the batch"
        raise BadData(
            f"{where}: scores {labels[row].tolist()}; with this objective each must be from"
            f" {lowest:g} to {highest:g}, scale them so"
        )
    return labels
