"""InfoNCE: each query against every document of the global batch."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from trainer import losses
from trainer.batch import Batch
from trainer.collectives import all_rows, gather, sum_over_ranks
from trainer.log_partition import log_partition
from trainer.microbatches import Encode
from trainer.objectives.exclusions import Exclusion, excluded_documents
from trainer.objectives.geometry import squared_distances, uniformity
from trainer.objectives.hard_negatives import Hardness, hard_log_partition
from trainer.objectives.objective import Outcome, TemperatureValue
from trainer.objectives.xtr import with_limits
from trainer.scores import Score, own_scores


@dataclass(frozen=True)
class Contrastive:
    """InfoNCE over every document of every rank (van den Oord et al. 2018)."""

    score: Score
    symmetric: bool = False
    """Whether the loss is the mean of both directions: query to documents, positive to queries."""
    exclusions: tuple[Exclusion, ...] = ()
    """Rules for documents that are no negatives, in addition to known positives."""
    hardness: Hardness | None = None
    """Which negatives count, in the direction from queries only; None: all count equally."""
    xtr_top_k: int | None = None
    """Only with the score `xtr`: number of document tokens that each query token retrieves."""

    def __call__(self, batch: Batch, encode: Encode, temperature: TemperatureValue) -> Outcome:
        """Returns the loss of the global batch."""
        queries, documents = encode(batch.queries), encode(batch.documents)
        if self.xtr_top_k is not None:
            queries, documents = with_limits(queries, documents, self.xtr_top_k)
        positives = documents[:: batch.documents_per_query]
        positive_scores = gather(
            own_scores(queries, positives, self.score).squeeze(1) / temperature
        )
        excluded_pairs = excluded_documents(batch, self.exclusions)
        if self.hardness is not None:
            hard = hard_log_partition(
                queries, documents, self.score, temperature, excluded_pairs, positive_scores,
                self.hardness,
            )  # fmt: skip
            loss = losses.info_nce(positive_scores, hard.log_z)
            figures = batch_figures(queries, documents, hard.all_queries, hard.own_excluded_count)
            return Outcome(loss, {"negatives_left_out": figures.pop("excluded"), **figures})
        log_z = log_partition(
            queries, documents, self.score, temperature, excluded_pairs, symmetric=self.symmetric
        )
        loss = losses.info_nce(positive_scores, log_z.queries)
        if log_z.positives is not None:
            loss = (loss + losses.info_nce(positive_scores, log_z.positives)) / 2
        own_excluded_count = log_z.excluded_counts.sum()
        figures = batch_figures(queries, documents, log_z.all_queries, own_excluded_count)
        return Outcome(loss, {"masked_false_negatives": figures.pop("excluded"), **figures})


@torch.no_grad()
def batch_figures(
    queries: Float[Tensor, "query ..."],
    documents: Float[Tensor, "document ..."],
    all_queries: Float[Tensor, "all_queries ..."],
    own_excluded_count: Int[Tensor, ""],
) -> dict[str, Float[Tensor, ""]]:
    """Returns what the log shows of the negatives, and of embeddings that are one vector per text.

    Like the loss, they are those of the global batch on every rank, by one sum over the ranks.
    """
    has_geometry = queries.ndim == 2 and len(all_queries) > 1
    distances = own_excluded_count.new_zeros((), dtype=torch.float64)
    if has_geometry:
        positives = documents[:: len(documents) // len(queries)]
        distances = squared_distances(queries, positives).double()
    excluded_count, distance = sum_over_ranks(
        torch.stack([own_excluded_count.double(), distances])
    ).unbind()
    negatives = all_rows(len(documents)) - 1 - excluded_count / len(all_queries)
    figures = {"excluded": excluded_count, "effective_negatives_per_query": negatives}
    if has_geometry:
        figures["alignment"] = distance / len(all_queries)
        figures["uniformity"] = uniformity(all_queries)
    return {name: figure.to(all_queries) for name, figure in figures.items()}
