"""Ranking a query's own candidates by relevance: the objective of a cross-encoder."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from trainer.batch import Batch, to_device
from trainer.collectives import gather, gather_texts
from trainer.errors import BadData
from trainer.microbatches import Encode
from trainer.objectives.candidates import CandidateScores, gather_labels, gather_pair_scores
from trainer.objectives.objective import Outcome, TemperatureValue

RankingLoss = Callable[
    [
        Float[Tensor, "query candidate"],
        Float[Tensor, "query candidate"],
        Bool[Tensor, "query candidate"],
    ],
    Float[Tensor, ""],
]
"""A function from scores, relevance and the mask of excluded candidates to a scalar, such as those
of `trainer.objectives.ranking_losses`.
"""
Grades = tuple[float, float]
"""The lowest and the highest grade of relevance that a loss accepts."""


@dataclass(frozen=True)
class Ranking:
    """A ranking loss over each query's own candidates.

    Without `grades`, the first candidate is relevant and the others are not. Other known positives
    are excluded. With `grades`, the batch's labels are the relevance, and no candidate is excluded.
    """

    loss: RankingLoss
    grades: Grades | None = None
    candidate_scores: CandidateScores = gather_pair_scores

    def __call__(self, batch: Batch, encode: Encode, temperature: TemperatureValue) -> Outcome:
        """Returns the loss of the global batch; scores are not divided by the temperature.

        Raises BadData for a label outside `grades`.
        """
        scores = self.candidate_scores(batch, encode)
        if self.grades is not None:
            relevance = _relevance(batch, self.grades).to(scores)
            excluded_mask = torch.zeros_like(scores, dtype=torch.bool)
        else:
            relevance = torch.zeros_like(scores)
            relevance[:, 0] = 1.0
            excluded_mask = to_device(gather(_is_other_positive(batch)), scores.device)
        loss = self.loss(scores, relevance, excluded_mask)
        return Outcome(loss, {"masked_false_negatives": excluded_mask.sum().to(scores)})


def _is_other_positive(batch: Batch) -> Bool[Tensor, "query candidate"]:
    """Returns True for known positives after the first candidate, and for the query's own text."""
    pairs = batch.documents.identities.unflatten(0, (len(batch.queries), -1))
    is_positive = (pairs[:, :, None] == batch.known_positives[:, None, :]).any(2)
    is_positive[:, 0] = False
    return is_positive


def _relevance(batch: Batch, grades: Grades) -> Float[Tensor, "query candidate"]:
    labels, (lowest, highest) = gather_labels(batch), grades
    is_outside = ~((labels >= lowest) & (labels <= highest)).all(1)  # also True for NaN
    if is_outside.any():
        row = int(is_outside.nonzero()[0])
        sample_ids = gather_texts(batch.sample_ids)
        place = sample_ids[row] if row < len(sample_ids) else f"row {row} of the batch"
        raise BadData(
            f"{place}: scores {labels[row].tolist()}; this objective needs scores from"
            f" {lowest:g} to {highest:g}; scale the scores to this range"
        )
    return labels
