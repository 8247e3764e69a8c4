"""Ranking losses: functions from the scores of each query's candidates to a scalar. Candidates in
`excluded_mask` do not take part.

`docs/equations.md` lists all formulas with their papers.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

_SMALLEST_IDEAL = 1e-10


def binary_cross_entropy(
    scores: Float[Tensor, "query candidate"],
    relevance: Float[Tensor, "query candidate"],
    excluded_mask: Bool[Tensor, "query candidate"],
) -> Float[Tensor, ""]:
    """Pointwise: the mean over candidates of the cross-entropy of sigmoid(score) with a relevance
    from 0 to 1 (Nogueira & Cho 2019, equation 1).

    >>> no_mask = torch.zeros(1, 2, dtype=torch.bool)
    >>> round(
    ...     binary_cross_entropy(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), no_mask)
    ...     .exp()
    ...     .item(),
    ...     4,
    ... )
    2.0
    """
    return functional.binary_cross_entropy_with_logits(
        scores[~excluded_mask], relevance[~excluded_mask]
    )


def rank_net(
    scores: Float[Tensor, "query candidate"],
    relevance: Float[Tensor, "query candidate"],
    excluded_mask: Bool[Tensor, "query candidate"],
) -> Float[Tensor, ""]:
    """Pairwise: the mean of log(1 + exp(s_j - s_i)) over all pairs of a query's candidates with
    relevance_i > relevance_j (Burges et al. 2005, equation 3).

    If there is no such pair, the loss is zero.

    >>> no_mask = torch.zeros(1, 2, dtype=torch.bool)
    >>> round(rank_net(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), no_mask).exp().item(), 4)
    2.0
    """
    pairs = _ordered_pairs(relevance, excluded_mask)
    return _wrong_order(scores)[pairs].sum() / max(1, int(pairs.sum()))


def softmax_cross_entropy(
    scores: Float[Tensor, "query candidate"],
    relevance: Float[Tensor, "query candidate"],
    excluded_mask: Bool[Tensor, "query candidate"],
) -> Float[Tensor, ""]:
    """Listwise: the mean over queries of the cross-entropy of the softmax of the scores with the
    shares of relevance (Cao et al. 2007; Bruch et al. 2019).

    With one relevant candidate it is minus the logarithm of that candidate's probability. A query
    without a relevant candidate adds zero.

    >>> no_mask = torch.zeros(1, 4, dtype=torch.bool)
    >>> round(
    ...     softmax_cross_entropy(torch.zeros(1, 4), torch.tensor([[1.0, 0.0, 0.0, 0.0]]), no_mask)
    ...     .exp()
    ...     .item(),
    ...     4,
    ... )
    4.0
    """
    log_probabilities = (
        scores.masked_fill(excluded_mask, -torch.inf).log_softmax(1).masked_fill(excluded_mask, 0.0)
    )
    relevance = relevance.masked_fill(excluded_mask, 0.0)
    shares = relevance / relevance.sum(1, keepdim=True).clamp_min(_SMALLEST_IDEAL)
    return -(shares * log_probabilities).sum(1).mean()


def lambda_loss(
    scores: Float[Tensor, "query candidate"],
    relevance: Float[Tensor, "query candidate"],
    excluded_mask: Bool[Tensor, "query candidate"],
    mu: float = 10.0,
) -> Float[Tensor, ""]:
    """LambdaLoss with the weights of NDCG-Loss2++: RankNet's loss with each pair weighted by its
    effect on nDCG (Wang et al. 2018, section 6.4).

    It is the mean, in bits, over all pairs of a query's candidates with relevance_i > relevance_j.
    A candidate's place follows from its current score; of equal scores the earlier candidate comes
    first. If there is no such pair, the loss is zero.

    >>> no_mask = torch.zeros(1, 2, dtype=torch.bool)
    >>> wrong, right = (
    ...     lambda_loss(torch.tensor([[score, 0.0]]), torch.tensor([[1.0, 0.0]]), no_mask)
    ...     for score in (-9.0, 9.0)
    ... )
    >>> bool(wrong > 1000 * right)
    True
    """
    relevance = relevance.masked_fill(excluded_mask, 0.0)
    place = _places(scores.detach().masked_fill(excluded_mask, -torch.inf))
    ideal = (
        _gain(relevance.sort(1, descending=True).values)
        / _discount(torch.arange(1, scores.shape[1] + 1, device=scores.device))
    ).sum(1, keepdim=True)
    gain, discount = _gain(relevance) / ideal.clamp_min(_SMALLEST_IDEAL), _discount(place)
    # A candidate with itself has distance 0 and is no pair, so the clamped value is not used.
    distance = (place[:, :, None] - place[:, None, :]).abs().clamp_min(1)
    tight = (1 / _discount(distance) - 1 / _discount(distance + 1)).abs()
    coarse = (1 / discount[:, :, None] - 1 / discount[:, None, :]).abs()
    weights = (mu * tight + coarse) * (gain[:, :, None] - gain[:, None, :]).abs()
    pairs = _ordered_pairs(relevance, excluded_mask)
    return (weights.to(scores) * _wrong_order(scores))[pairs].sum() / (
        math.log(2) * max(1, int(pairs.sum()))
    )


def _wrong_order(
    scores: Float[Tensor, "query candidate"],
) -> Float[Tensor, "query candidate other"]:
    """Returns log(1 + exp(s_j - s_i)) for candidates i and j of a query."""
    return functional.softplus(scores[:, None, :] - scores[:, :, None])


def _ordered_pairs(
    relevance: Float[Tensor, "query candidate"], excluded_mask: Bool[Tensor, "query candidate"]
) -> Bool[Tensor, "query candidate other"]:
    """Returns True where candidate i is more relevant than j and neither is excluded."""
    return (relevance[:, :, None] > relevance[:, None, :]) & ~(
        excluded_mask[:, :, None] | excluded_mask[:, None, :]
    )


def _places(scores: Float[Tensor, "query candidate"]) -> Int[Tensor, "query candidate"]:
    """Returns the place of each candidate in the ranking by score, from 1."""
    return scores.argsort(dim=1, descending=True, stable=True).argsort(1) + 1


def _gain(relevance: Float[Tensor, "query candidate"]) -> Float[Tensor, "query candidate"]:
    return torch.pow(2.0, relevance) - 1


def _discount(place: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    return torch.log2(1.0 + place.double())
