"""The only file that knows of recomputation and of how a sum over all candidates is put together."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from trainer.batch import Texts
from trainer.scores import Score

Encode = Callable[[Texts], Float[Tensor, "text dimension"]]
"""Any function from texts to one embedding each."""


def micro_batches(lengths: Int[Tensor, " text"], tokens: int) -> list[Int[Tensor, " row"]]:
    """Rows in micro-batches of at most `tokens` padded tokens, longest text first; a longer text has a micro-batch to itself.

    Sorting by length first leaves next to no padding; the longest come first, so that a lack of memory shows at once.

    >>> [rows.tolist() for rows in micro_batches(torch.tensor([2, 9, 3, 3]), tokens=8)]
    [[1], [2, 3], [0]]
    """
    order = lengths.argsort(descending=True, stable=True)
    cuts, start = [], 0
    ordered = lengths[order].tolist()
    for end, _ in enumerate(ordered):
        if (end + 1 - start) * ordered[start] > tokens and end > start:
            cuts.append(order[start:end])
            start = end
    return [*cuts, order[start:]]


def in_chunks(encode: Encode, tokens: int | None, recompute: bool = False) -> Encode:
    """`encode`, done in micro-batches of at most `tokens` padded tokens, each distinct text once.

    The embeddings and the gradient are those of the whole batch at once (law 1). With `recompute`, no micro-batch keeps its
    activations: each is run again in the backward pass with its random state replayed, which is GradCache (Gao et al. 2021)
    inside one ordinary backward.
    """

    def encode_in_chunks(texts: Texts) -> Float[Tensor, "text dimension"]:
        _, place = texts.identities.unique(return_inverse=True)
        first = torch.full((int(place.max()) + 1,), len(texts)).scatter_reduce_(0, place, torch.arange(len(texts)), "amin")
        rows = micro_batches(texts.lengths[first], tokens) if tokens else [torch.arange(len(first))]
        parts = [texts.select(first[chunk]) for chunk in rows]
        encoded = [checkpoint(encode, part, use_reentrant=False) if recompute else encode(part) for part in parts]
        back = torch.cat(rows).argsort()[place]
        return torch.cat(encoded)[back.to(encoded[0].device)]

    return encode_in_chunks


def log_partition(
    queries: Float[Tensor, "query dimension"],
    documents: Float[Tensor, "document dimension"],
    score: Score,
    temperature: Float[Tensor, ""] | float,
    excluded: Bool[Tensor, "query document"],
) -> Float[Tensor, " query"]:
    """log of the sum over documents of exp(score / temperature), for each query, without the excluded ones.

    This is the function a distributed, tiled form takes the place of. Excluded scores are minus infinity, never zero.
    """
    return (score(queries, documents) / temperature).masked_fill(excluded.to(queries.device), -torch.inf).logsumexp(1)
