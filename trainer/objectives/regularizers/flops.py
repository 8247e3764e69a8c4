"""The FLOPS regulariser of sparse models, and the end of a training whose vectors collapse."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from trainer.batch import Batch
from trainer.collectives import all_rows, sum_with_gradient
from trainer.errors import Collapse
from trainer.microbatches import Encode
from trainer.objectives.matryoshka import encode_once
from trainer.objectives.objective import Objective, Outcome, TemperatureValue

ROLES = ("query", "document")
DENSE_SHARE = 0.95
"""The share of the vocabulary that is active per text when vectors are no longer sparse."""


@dataclass(frozen=True)
class RegularizedObjective:
    """An objective plus FLOPS of queries and of documents, each with its weight (Paria et al. 2020;
    SPLADE v2, Formal et al. 2021, equation 4).

    FLOPS is the sum over the vocabulary of the squared mean weight of a word. The mean is that of
    all texts of the global batch: it is computed from the sums of all ranks and micro-batches, and
    squared after that, since the mean of their squares would depend on how a batch is cut.
    """

    objective: Objective
    query_weight: float
    document_weight: float
    warmup_steps: int = 0
    """The weights grow with the square of the step until this one."""
    free_terms: int | None = None
    """Texts with at most this many active terms count as zero in FLOPS (Shen et al. 2025)."""

    def __call__(self, batch: Batch, encode: Encode, temperature: TemperatureValue) -> Outcome:
        """Returns the loss of the global batch."""
        encode = encode_once(encode)
        outcome = self.objective(batch, encode, temperature)
        loss, metrics = outcome.loss, {**outcome.metrics, "objective_loss": outcome.loss}
        roles = (encode(batch.queries), encode(batch.documents))
        totals = sum_with_gradient(torch.cat([self._totals(vectors) for vectors in roles]))
        weights = (self.query_weight, self.document_weight)
        parts = zip(ROLES, roles, weights, totals.chunk(2), strict=True)
        for role, vectors, weight, sums in parts:
            means = sums / all_rows(len(vectors))
            flops = means[:-1].square().sum()
            loss = loss + weight * warmup_factor(batch.step, self.warmup_steps) * flops
            metrics |= {f"{role}_flops": flops, f"active_terms_per_{role}": means[-1]}
        return Outcome(loss, metrics)

    def check(self, step: int, metrics: Mapping[str, float], vocabulary: int) -> None:
        """Raises Collapse if no text of a role has an active term, or nearly all of the vocabulary
        is active although the regulariser has its full weight. Steps count from 0.
        """
        for role, weight in zip(ROLES, (self.query_weight, self.document_weight), strict=True):
            terms = metrics[f"active_terms_per_{role}"]
            if terms == 0:
                cause = (
                    f"The regulariser is too strong: lower regularizer.{role}_weight, raise"
                    " regularizer.warmup_ratio, or lower optimization.learning_rate"
                    if weight
                    else "Nothing regularises them, so weights fell too fast: lower"
                    " optimization.learning_rate, or optimization.head_learning_rate of a table"
                )
                raise Collapse(
                    f"step {step + 1}: no {role} of the batch has an active term, so nothing can be"
                    f" found, and the gradient is zero. {cause}, and start again"
                )
            if (
                weight
                and warmup_factor(step, self.warmup_steps) == 1
                and terms > DENSE_SHARE * vocabulary
            ):
                raise Collapse(
                    f"step {step + 1}: {terms:,.0f} of {vocabulary:,} terms are active per"
                    f" {role}, although the regulariser has its full weight, so the vectors are not"
                    f" sparse. Raise regularizer.{role}_weight, and start again"
                )

    def _totals(self, vectors: Float[Tensor, "text vocabulary"]) -> Float[Tensor, " word_or_count"]:
        """Returns the sum of the weights of each word, and then the number of active terms."""
        counts = vectors.detach().count_nonzero(1)
        if self.free_terms is not None:
            vectors = vectors * (counts > self.free_terms)[:, None]
        return torch.cat([vectors.sum(0), counts.sum(0, keepdim=True).to(vectors)])


def warmup_factor(step: int, warmup_steps: int) -> float:
    """Returns the share of the weights of a regulariser at a step, counted from 0.

    >>> [warmup_factor(step, 4) for step in (0, 1, 3, 9)]
    [0.0625, 0.25, 1.0, 1.0]
    """
    return min(1.0, ((step + 1) / warmup_steps) ** 2) if warmup_steps else 1.0
