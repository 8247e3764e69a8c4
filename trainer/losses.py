"""Losses: functions from scores to a scalar. A loss never holds a model, and it does not depend on
ranks or micro-batches.

`docs/equations.md` lists all formulas with their papers.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional


def info_nce(
    positive: Float[Tensor, " query"], partition: Float[Tensor, " query"]
) -> Float[Tensor, ""]:
    """InfoNCE: the mean over queries of `partition - positive` (van den Oord et al. 2018,
    equation 4).

    `positive` is the score of each query with its positive, divided by the temperature. `partition`
    is the log-sum-exp over all candidates of the query, including the positive. Equal scores give
    the logarithm of the number of candidates.

    >>> scores = torch.zeros(3, 4)
    >>> round(info_nce(scores[:, 0], scores.logsumexp(1)).exp().item(), 4)
    4.0
    """
    return (partition - positive).mean()


def cosent(
    scores: Float[Tensor, " pair"],
    labels: Float[Tensor, " pair"],
    temperature: Float[Tensor, ""] | float,
) -> Float[Tensor, ""]:
    """CoSENT: log(1 + sum of exp((s_j - s_i) / temperature) over all i, j with label_i > label_j)
    (Su 2022).

    If all labels are equal, the loss is zero.

    >>> round(cosent(torch.tensor([0.0, 0.0]), torch.tensor([1.0, 0.0]), 0.5).exp().item(), 4)
    2.0
    """
    differences = (scores[None, :] - scores[:, None]) / temperature
    wrong_if_large = differences.masked_fill(labels[:, None] <= labels[None, :], -torch.inf)
    return torch.cat([differences.new_zeros(1), wrong_if_large.flatten()]).logsumexp(0)


def triplet(
    scores: Float[Tensor, "query candidate"],
    margin: float,
    excluded_mask: Bool[Tensor, "query candidate"] | None = None,
) -> Float[Tensor, ""]:
    """The mean of max(0, margin - positive + negative) over all negatives that are not excluded
    (Schroff et al. 2015).

    Column 0 is the positive. If every negative is excluded, the loss is zero.

    >>> round(triplet(torch.tensor([[1.0, 0.9, 0.0]]), margin=0.2).item(), 4)
    0.05
    """
    violations = functional.relu(margin - scores[:, :1] + scores[:, 1:])
    violations = (
        violations.flatten() if excluded_mask is None else violations[~excluded_mask[:, 1:]]
    )
    return violations.sum() / max(1, len(violations))


def kl(
    scores: Float[Tensor, "query candidate"], teacher: Float[Tensor, "query candidate"]
) -> Float[Tensor, ""]:
    """KL(teacher || student): the mean over queries of the divergence of the softmax over a query's
    candidates (ColBERTv2, Santhanam et al. 2022).

    Both inputs are scores divided by their temperature. If they differ only by a constant per
    query, the loss and its gradient are zero.

    >>> round(kl(torch.tensor([[0.0, 0.0]]), torch.tensor([[50.0, 0.0]])).exp().item(), 4)
    2.0
    """
    return functional.kl_div(
        scores.log_softmax(1), teacher.log_softmax(1), reduction="batchmean", log_target=True
    )


def margin_mse(
    scores: Float[Tensor, "query candidate"], teacher: Float[Tensor, "query candidate"]
) -> Float[Tensor, ""]:
    """MarginMSE: the mean of (student's margin - teacher's margin)^2 over all negatives
    (Hofstaetter et al. 2020, equation 2). Column 0 is the positive.

    >>> margin_mse(torch.tensor([[3.0, 1.0, 0.0]]), torch.tensor([[5.0, 4.0, 4.0]])).item()
    2.5
    """
    return functional.mse_loss(scores[:, :1] - scores[:, 1:], teacher[:, :1] - teacher[:, 1:])
