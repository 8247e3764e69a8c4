"""Law 2: W ranks equal one, in loss, gradient norm and gradient direction; every objective and
score, ragged lengths, however it is cut.

Here the mean over ranks is taken by hand, so what is tested is the engine alone. The same under the
strategies that people run is in `tests/strategies`.

All cases run on two ranks in float64. In float32, and on one and four ranks, every objective runs
with every score once: what is trained and how micro-batches are cut is taken in turn, another one
in each group. With NEARFAR_WHOLE_MATRIX (`make test-all`) all cases run everywhere.
"""

import itertools
import os

import pytest
import torch
from matrix import (
    CASES,
    JOINT,
    SCORES,
    SPARSE,
    TUNINGS,
    batch_of,
    encoder_of,
    gradient_of,
    likeness,
    mean_over_ranks,
)
from ranks import on_ranks

from trainer import collectives as parallel
from trainer import log_partition as partition
from trainer.collectives import rank, ranks
from trainer.objectives import contrastive as objectives
from trainer.objectives import exclusions
from trainer.objectives.regularizers import flops

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
WHOLE = os.environ.get("NEARFAR_WHOLE_MATRIX")


OTHER_GROUPS = [(dtype, count) for dtype in TOLERANCE for count in (1, 2, 4)]
OTHER_GROUPS.remove((torch.float64, 2))


def cases_of(dtype, count):
    """All cases, or one of every objective with every score: another one in each of the groups."""
    if WHOLE or (dtype, count) not in OTHER_GROUPS:
        return CASES
    shift = OTHER_GROUPS.index((dtype, count))
    choices = [list(group) for _, group in itertools.groupby(CASES, lambda case: case[:2])]
    return [group[(number + shift) % len(group)] for number, group in enumerate(choices)]


def gradients(folder, dtype, cases, spoil=None):
    """Of each case: the loss of this rank and the mean over ranks of the gradient."""
    if spoil is not None:
        spoil()
    found, encoders = [], {}
    for objective, score, tuning, micro in cases:
        if (score, tuning) not in encoders:
            encoders[score, tuning] = encoder_of(folder, score, tuning, dtype)
        encoder = encoders[score, tuning]
        loss, gradient = gradient_of(
            encoder, batch_of(encoder, rank(), ranks()), objective, score, micro
        )
        if spoil is loss_times_ranks:
            gradient *= ranks()
        found.append((loss, mean_over_ranks(gradient)))
    return found


@pytest.fixture(scope="module")
def alone(toy_folder):
    """Of each case in float64: one process, the whole batch at once."""
    return dict(
        zip(
            CASES,
            gradients(toy_folder("bert"), torch.float64, [(*case[:3], "whole") for case in CASES]),
            strict=True,
        )
    )


@pytest.mark.parametrize("tuning", TUNINGS)
def test_cases_are_well_conditioned(toy_folder, tuning):
    """No query token has two best document tokens to within float32's rounding: there its gradient
    jumps, and two right answers would differ.
    """
    encoder = encoder_of(toy_folder("bert"), "maxsim", tuning, torch.float64)
    batch = batch_of(encoder)
    queries, documents = encoder(batch.queries).detach(), encoder(batch.documents).detach()
    scores = torch.einsum("q i d, c k d -> q i c k", queries, documents).masked_fill(
        (documents == 0).all(2)[None, None], -torch.inf
    )
    best = scores.topk(2).values[~(queries == 0).all(2)]
    assert (best[..., 0] - best[..., 1]).min() > 1e-5


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_ranks_equal_one(toy_folder, alone, count, dtype):
    cases = cases_of(dtype, count)
    answers = on_ranks(count, gradients, toy_folder("bert"), dtype, cases)
    tolerance = TOLERANCE[dtype]
    for number, case in enumerate(cases):
        wanted_loss, wanted = alone[case]
        assert wanted.norm() > 1e-3, case
        for of_rank in answers:
            loss, gradient = of_rank[number]
            assert loss == pytest.approx(wanted_loss, rel=tolerance), case
            norm, turned = likeness(gradient, wanted)
            assert norm == pytest.approx(1, abs=tolerance), case
            assert turned <= tolerance**2 / 2, case


@pytest.mark.parametrize("group", OTHER_GROUPS, ids=lambda group: f"{group[0]}-{group[1]}")
def test_fewer_cases_have_all_objectives_scores_tunings_and_cuts(group):
    fewer = cases_of(*group)
    assert {case[:2] for case in fewer} == {case[:2] for case in CASES}
    assert {case[2:] for case in fewer} == {case[2:] for case in CASES}


def test_cases_differ(alone):
    """Else a gradient that ignores its case would pass."""
    gradients = {
        case: gradient
        for case, (_, gradient) in alone.items()
        if case[2:] == ("full", "partly kept")
    }
    alike = [[case for case in gradients if case[1] == score] for score in ("dot", JOINT, SPARSE)]
    for one, other in itertools.chain(*(itertools.combinations(cases, 2) for cases in alike)):
        assert abs(likeness(gradients[one], gradients[other])[1]) > 1e-4, (one, other)


def loss_times_ranks():
    """What a trainer does that sums where the mean was meant."""


def detached_gather():
    """What a trainer does that gathers without gradient."""
    honest = parallel.gather

    def gather(values, padding=None):
        everything = honest(values.detach(), padding)
        return everything.requires_grad_(values.requires_grad)

    parallel.gather = partition.gather = objectives.gather = gather


def no_mask_between_ranks():
    """What a trainer does that knows the positives of its own rank alone."""
    honest = exclusions.gather

    def gather(values, padding=None):
        everything = honest(values, padding)
        return everything if padding is None else torch.full_like(everything, -1)

    exclusions.gather = gather


def flops_of_each_rank():
    """What a trainer does that squares the mean of each rank's own texts."""
    flops.sum_with_gradient = lambda sums: sums * ranks()


@pytest.mark.parametrize("spoil", [loss_times_ranks, detached_gather, no_mask_between_ranks])
@pytest.mark.parametrize("score", SCORES)
def test_wrong_implementation_is_caught(toy_folder, alone, spoil, score):
    case = ("contrastive", score, "full", "micro-batched")
    wrong = on_ranks(2, gradients, toy_folder("bert"), torch.float64, [case], spoil)[0][0][1]
    norm, turned = likeness(wrong, alone[case][1])
    assert abs(norm - 1) > 1e-3 or turned > 1e-4


@pytest.mark.parametrize("spoil", [loss_times_ranks, flops_of_each_rank])
def test_wrong_regularizer_is_caught(toy_folder, alone, spoil):
    """A mean over the ranks of the square of each rank's mean is what other libraries have."""
    case = ("flops", SPARSE, "full", "micro-batched")
    wrong = on_ranks(2, gradients, toy_folder("bert"), torch.float64, [case], spoil)[0][0][1]
    norm, turned = likeness(wrong, alone[case][1])
    assert abs(norm - 1) > 1e-3 or turned > 1e-4


def traffic(folder):
    """Bytes a rank receives in one step, forward and backward."""
    encoder = encoder_of(folder, "dot", "full")
    batch = batch_of(encoder, rank(), ranks())
    before = parallel.TRAFFIC.forward, parallel.TRAFFIC.backward
    gradient_of(encoder, batch, "contrastive", "dot", "whole")
    return (
        parallel.TRAFFIC.forward - before[0],
        parallel.TRAFFIC.backward - before[1],
        encoder.dimensions,
        len(batch.queries),
        batch,
    )


@pytest.mark.parametrize("count", [2, 4])
def test_queries_travel_and_documents_stay(toy_folder, count):
    for forward, backward, dimensions, queries, _ in on_ranks(count, traffic, toy_folder("bert")):
        others = count - 1
        vectors, positives = 4 * queries * dimensions, 4 * queries
        partial_sums = 2 * 4 * queries  # an all-reduce of one number per query of all ranks
        assert backward == others * (vectors + partial_sums + positives)
        names = forward - backward - others * partial_sums  # of the largest numbers
        assert 0 < names <= others * 8 * queries * 5, (
            "and the identities of what is known to be right"
        )
