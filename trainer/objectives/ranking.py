"""Ranking a query's own candidates by relevance: the objective of a cross-encoder."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from trainer.batch import Batch
from trainer.collectives import gather, gather_texts
from trainer.errors import BadData
from trainer.microbatches import Encode
from trainer.objectives.candidates import CandidateScores, gather_labels, gather_pair_scores
from trainer.objectives.objective import Outcome, Temperature

RankingLoss = Callable[
    [
        Float[Tensor, "query candidate"],
        Float[Tensor, "query candidate"],
        Bool[Tensor, "query candidate"],
    ],
    Float[Tensor, ""],
]
"""Scores, relevance and what is excluded to a scalar: `trainer.objectives.ranking_losses`."""
Grades = tuple[float, float]
"""The lowest and the highest grade of relevance that a loss takes."""


@dataclass(frozen=True)
class Ranking:
    """A ranking loss over each query's own candidates. The first is right and the others are not,
    but for those that identity knows to be right too.

    With `grades` the batch's labels are the relevance instead, and nothing is left out.
    """

    loss: RankingLoss
    grades: Grades | None = None
    candidate_scores: CandidateScores = gather_pair_scores

    def __call__(self, batch: Batch, encode: Encode, temperature: Temperature) -> Outcome:
        """The loss of the global batch, on scores as they are. Raises BadData for a label outside
        `grades`.
        """
        scores = self.candidate_scores(batch, encode)
        if self.grades is not None:
            relevance = _relevance(batch, self.grades).to(scores)
            excluded = torch.zeros_like(scores, dtype=torch.bool)
        else:
            relevance = torch.zeros_like(scores)
            relevance[:, 0] = 1.0
            excluded = gather(_also_right(batch)).to(scores.device)
        loss = self.loss(scores, relevance, excluded)
        return Outcome(loss, {"masked_false_negatives": excluded.sum().to(scores)})


def _also_right(batch: Batch) -> Bool[Tensor, "query candidate"]:
    """True where a candidate is known to be right, or the query's own text, and is not in the
    positive's place.
    """
    pairs = batch.documents.identities.unflatten(0, (len(batch.queries), -1))
    right = (pairs[:, :, None] == batch.known_positives[:, None, :]).any(2)
    right[:, 0] = False
    return right


def _relevance(batch: Batch, grades: Grades) -> Float[Tensor, "query candidate"]:
    labels, (lowest, highest) = gather_labels(batch), grades
    bad = ~((labels >= lowest) & (labels <= highest)).all(1)  # NaN too
    if bad.any():
        row = int(bad.nonzero()[0])
        rows = gather_texts(batch.sample_ids)
        where = rows[row] if row < len(rows) else f"row {row} of the batch"
        raise BadData(
            f"{where}: scores {labels[row].tolist()}; with this objective each must be from"
            f" {lowest:g} to {highest:g}, scale them so"
        )
    return labels
