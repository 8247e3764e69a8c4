"""What ranks do together, on real processes: gathering with gradient, agreeing, failing, and
keeping in step.
"""

import pytest
import torch
from encoded import encode
from ranks import on_ranks
from twins import SmallEncoder, texts_of

from trainer.collectives import (
    MAX,
    MIN,
    SUM,
    all_reduce_integers,
    gather,
    gather_texts,
    logsumexp_over_ranks,
    on_first_rank,
    rank,
    ranks,
)
from trainer.errors import OtherRankFailed
from trainer.microbatches import in_microbatches
from trainer.models.encoder import VectorEncoder
from trainer.vectors.dense import DenseVectors


def gathered():
    """Rows that say where they come from, of a length that differs, weighted differently on every
    rank; and the gradient that comes back.
    """
    values = torch.full((2, 1 + rank(), 3), 1.0 + rank(), dtype=torch.float64, requires_grad=True)
    everything = gather(values, padding=0)
    (everything * (10.0 ** rank())).sum().backward()
    return everything.detach(), values.grad


@pytest.mark.parametrize("count", [2, 3])
def test_gather_pads_and_its_backward_sums_over_ranks(count):
    for everything, gradient in on_ranks(count, gathered):
        assert everything.shape == (2 * count, count, 3)
        for row in range(2 * count):
            source = row // 2
            assert (everything[row, : 1 + source] == 1 + source).all()
            assert (everything[row, 1 + source :] == 0).all()
        assert (gradient == sum(10.0**each for each in range(count))).all()


def other_types():
    return (
        gather(torch.tensor([rank() == 1])),
        gather(torch.tensor([[7] * (1 + rank())]), padding=-1),
        gather(torch.ones(1, dtype=torch.bfloat16)).dtype,
    )


def test_gather_supports_booleans_integers_and_half_precision():
    for truths, numbers, dtype in on_ranks(2, other_types):
        assert truths.tolist() == [False, True]
        assert numbers.tolist() == [[7, -1], [7, 7]]
        assert dtype == torch.float32


def strided():
    """A gradient that is not contiguous, as MaxSim sends one."""
    values = torch.arange(6.0, requires_grad=True)
    weights = torch.arange(12.0).reshape(6, 2).T
    (gather(values).reshape(2, 6) * weights).T.sum().backward()
    return values.grad


def test_gradient_that_is_not_contiguous_is_gathered():
    found = on_ranks(2, strided)
    weights = torch.arange(12.0).reshape(6, 2).T.flatten()
    assert torch.equal(torch.cat(found), 2 * weights)


def log_sum():
    """The log-sum-exp of numbers of all ranks, weighted differently on each, and its gradient.

    Some are too large or too small for exp.
    """
    smallest = -1e30 if rank() else 2.0
    values = torch.tensor([1.0 + rank(), 900.0 * rank(), smallest], dtype=torch.float64)
    result = logsumexp_over_ranks(values.requires_grad_())
    (result * (10.0 ** rank())).sum().backward()
    return values.detach(), result.detach(), values.grad


@pytest.mark.parametrize("count", [1, 2, 3])
def test_log_sum_over_ranks_has_the_gradient_of_all_ranks(count):
    found = on_ranks(count, log_sum)
    values = torch.stack([own for own, _, _ in found]).requires_grad_()
    expected = values.logsumexp(0)
    (expected * sum(10.0**each for each in range(count))).sum().backward()
    for number, (_, result, gradient) in enumerate(found):
        torch.testing.assert_close(result, expected.detach())
        torch.testing.assert_close(gradient, values.grad[number])


def agreement():
    return [all_reduce_integers([rank(), 5], how) for how in (MAX, MIN, SUM)], gather_texts(
        [f"row {rank()}"]
    )


def test_results_of_all_ranks_are_collected():
    for found in on_ranks(3, agreement):
        assert found == ([[2, 5], [0, 5], [3, 15]], ["row 0", "row 1", "row 2"])


def failing():
    try:
        on_first_rank(lambda: 1 / 0)
    except (ZeroDivisionError, OtherRankFailed) as error:
        return type(error).__name__
    return "nothing"


def test_failure_of_the_first_rank_ends_all():
    assert on_ranks(3, failing) == ["ZeroDivisionError", "OtherRankFailed", "OtherRankFailed"]


def calls():
    """The first rank has many long texts, the second one short one."""
    words = (
        ["deletethisdisk", "andthismachine", "showallofthem", "makeadatabase"]
        if rank() == 0
        else ["az"]
    )
    encoder = SmallEncoder()
    vectors = in_microbatches(encoder, 14, kept_tokens=28 if rank() == 0 else None)(texts_of(words))
    forward = list(encoder.encoded)
    vectors.sum().backward()
    twin = SmallEncoder()
    twin(texts_of(words)).sum().backward()
    same = all(
        torch.allclose(one.grad, other.grad, atol=1e-12)
        for one, other in zip(encoder.parameters(), twin.parameters(), strict=True)
    )
    return len(forward), len(encoder.encoded), same


def test_ranks_encode_and_recompute_in_step():
    (forward, whole, same), *others = on_ranks(3, calls)
    assert forward == 4
    assert whole == 4 + 2, "of four micro-batches, two are recomputed"
    assert same
    assert others == [(forward, whole, True)] * 2


class WordEncoder(VectorEncoder):
    """Of one word per text, with what `encode` asks for."""

    vectors = DenseVectors
    device = torch.device("cpu")
    dimensions = 6
    is_padded = False

    def __init__(self):
        torch.nn.Module.__init__(self)
        self.small = SmallEncoder(torch.float32)

    def tokenize(self, texts, role):
        return texts_of(texts)

    def forward(self, texts):
        return self.small(texts).float()

    def write_pipeline(self, folder):
        raise NotImplementedError


def searched(words):
    encoder = WordEncoder()
    return (
        encode(encoder, words, "document", micro_batch_tokens=14),
        len(encoder.small.encoded),
        ranks(),
    )


def test_encoding_for_search_is_divided_among_ranks():
    words = ["deletethisdisk", "andthismachine", "showallofthem", "az", "makeadatabase", "q"]
    alone, all_calls, _ = searched(words)
    for vectors, own_calls, count in on_ranks(2, searched, words):
        assert count == 2
        torch.testing.assert_close(torch.from_numpy(vectors), torch.from_numpy(alone))
        assert own_calls == -(-all_calls // 2) < all_calls
