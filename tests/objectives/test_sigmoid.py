"""The sigmoid loss equals its formula in plain loops, in any tiles and on any number of ranks."""

import math
from dataclasses import replace

import pytest
import torch
from ranks import on_ranks
from twins import KNOWN, ROWS, SmallEncoder, batch_of, full_batch

from trainer import log_partition
from trainer.collectives import rank, ranks, sum_over_ranks
from trainer.objectives.exclusions import RepeatedPositives
from trainer.objectives.sigmoid import Bias, Sigmoid
from trainer.scores import dot

TEMPERATURE, BIAS = 0.4, -1.5


def plain_loss(encoder, temperature, bias):
    """Equation 1 of Zhai et al. (2023), pair by pair, without known positives of other rows."""
    batch = full_batch()
    queries, documents = encoder(batch.queries), encoder(batch.documents)
    texts = [text for row in ROWS for text in row[1:]]
    per_query = len(ROWS[0]) - 1
    total = queries.new_zeros(())
    for i, row in enumerate(ROWS):
        for j, text in enumerate(texts):
            is_own = j == i * per_query
            if not is_own and (text in KNOWN[i] or text == row[0]):
                continue
            x = (queries[i] * documents[j]).sum() / temperature + bias
            total = total - torch.nn.functional.logsigmoid(x if is_own else -x)
    return total / len(ROWS)


def learned_numbers():
    log_temperature = torch.tensor([math.log(TEMPERATURE)], dtype=torch.float64).requires_grad_()
    return log_temperature, Bias(BIAS, is_learned=True).double()


def loss_and_gradient(batch=None):
    """Of the weights, the logarithm of the temperature, and the bias."""
    encoder, (log_temperature, bias) = SmallEncoder(), learned_numbers()
    weights = [*encoder.parameters(), log_temperature, bias.value]
    outcome = Sigmoid(dot, bias)(batch or full_batch(), encoder, log_temperature.exp()[0])
    gradients = torch.autograd.grad(outcome.loss, weights)
    return float(outcome.loss.detach()), torch.cat([each.flatten() for each in gradients])


@pytest.fixture(scope="module")
def expected():
    encoder, (log_temperature, bias) = SmallEncoder(), learned_numbers()
    loss = plain_loss(encoder, log_temperature.exp()[0], bias())
    weights = [*encoder.parameters(), log_temperature, bias.value]
    gradients = torch.autograd.grad(loss, weights)
    return float(loss.detach()), torch.cat([each.flatten() for each in gradients])


@pytest.mark.parametrize("tile_scores", [1, 9, 1000])
def test_loss_and_gradient_equal_the_formula_in_any_tiles(expected, monkeypatch, tile_scores):
    monkeypatch.setitem(log_partition.TILE_SCORES, "cpu", tile_scores)
    loss, gradient = loss_and_gradient()
    assert loss == pytest.approx(expected[0], rel=1e-12)
    torch.testing.assert_close(gradient, expected[1], rtol=1e-10, atol=1e-12)
    assert gradient[-2:].abs().min() > 1e-3, "temperature and bias are trained"


def gradient_of_own_share():
    own = slice(rank() * len(ROWS) // ranks(), (rank() + 1) * len(ROWS) // ranks())
    loss, gradient = loss_and_gradient(batch_of(ROWS[own], KNOWN[own]))
    return loss, sum_over_ranks(gradient) / ranks()


def test_two_ranks_equal_one_in_temperature_and_bias_too(expected):
    for loss, gradient in on_ranks(2, gradient_of_own_share):
        assert loss == pytest.approx(expected[0], rel=1e-12)
        torch.testing.assert_close(gradient, expected[1], rtol=1e-10, atol=1e-12)


def test_equal_texts_with_bias_zero_cost_the_logarithm_of_two_per_pair():
    batch = batch_of([("a", "bb"), ("c", "dd"), ("e", "ff")])
    objective = Sigmoid(lambda q, d: 0.0 * dot(q, d), Bias(0.0, is_learned=False))
    loss = objective(batch, SmallEncoder(), 1.0).loss
    assert loss.item() == pytest.approx(3 * math.log(2))


def test_repeated_positives_count_for_no_query():
    rows = [(query, positive, positive) for query, positive in (("a", "bb"), ("c", "dd"))]
    single_rows = batch_of([row[:2] for row in rows])
    bias = Bias(BIAS, is_learned=False)
    repeated = Sigmoid(dot, bias, (RepeatedPositives(),))(batch_of(rows), SmallEncoder(), 0.5)
    single = Sigmoid(dot, bias)(single_rows, SmallEncoder(), 0.5)
    assert repeated.loss.item() == pytest.approx(single.loss.item(), rel=1e-10)
    assert repeated.metrics["masked_false_negatives"] > 0


def test_large_scores_give_a_finite_loss_and_gradient():
    batch = replace(full_batch(), sample_ids=())
    encoder = SmallEncoder(torch.float32)
    outcome = Sigmoid(dot, Bias(-10.0, is_learned=True))(batch, encoder, 1e-4)
    outcome.loss.backward()
    assert math.isfinite(outcome.loss.item())
    assert encoder.weight.grad.isfinite().all()
