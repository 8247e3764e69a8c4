"""Law 6: equal scores give the log of the number of candidates, whatever the score, the temperature
and the model.
"""

import math

import pytest
import torch
import twins
from twins import KNOWN, ROWS, SmallEncoder, batch_of, full_batch, graded_batch

from trainer.objectives.candidates import Cosent, EmbeddingScores, Triplet
from trainer.objectives.contrastive import Contrastive
from trainer.scores import dot


def same_vector(texts):
    return torch.full((len(texts), 4), 0.5, dtype=torch.float64)


@pytest.mark.parametrize("temperature", [1.0, 0.01])
@pytest.mark.parametrize("queries", [2, 5])
@pytest.mark.parametrize("negatives", [0, 3])
def test_contrastive_gives_the_log_of_the_candidates(temperature, queries, negatives):
    rows = [
        (f"q{'a' * row}", *(f"d{'b' * (4 * row + number)}" for number in range(1 + negatives)))
        for row in range(queries)
    ]
    loss = Contrastive(dot)(batch_of(rows), same_vector, temperature)
    assert loss.loss.item() == pytest.approx(math.log(queries * (1 + negatives)), abs=1e-10)


def test_symmetric_contrastive_gives_the_log_of_the_candidates():
    rows = [(f"q{'a' * row}", f"d{'b' * row}", f"n{'c' * row}") for row in range(4)]
    loss = Contrastive(dot, symmetric=True)(batch_of(rows), same_vector, 0.05)
    assert loss.loss.item() == pytest.approx((math.log(8) + math.log(4)) / 2, abs=1e-10)


def test_excluded_documents_are_no_candidates():
    batch = full_batch()
    candidates = [
        sum(twins.is_candidate(batch, query, place) for place in range(18)) for query in range(6)
    ]
    assert len(set(candidates)) > 1
    assert max(candidates) < 18
    loss = Contrastive(dot)(batch, same_vector, 0.1)
    assert loss.loss.item() == pytest.approx(sum(map(math.log, candidates)) / 6, abs=1e-10)


def test_zero_in_place_of_minus_infinity_is_caught():
    """Scores of 0.5 / 0.1 = 5, with the excluded ones at 0 in place of left out: not the log of the
    candidates.
    """
    excluded = twins.mask_of(full_batch())
    multiplied = torch.where(excluded, 0.0, 5.0).logsumexp(1) - 5.0
    wanted = (18 - excluded.sum(1)).log()
    assert (multiplied - wanted).abs().max() > 1e-4


def test_cosent_counts_pairs_of_unequal_grade():
    batch = graded_batch()
    grades = batch.labels.flatten().tolist()
    unequal = sum(one > other for one in grades for other in grades)
    assert Cosent(EmbeddingScores(dot))(batch, same_vector, 0.1).loss.item() == pytest.approx(
        math.log(1 + unequal), abs=1e-10
    )


def test_triplet_costs_its_margin():
    assert Triplet(EmbeddingScores(dot), margin=0.3)(
        full_batch(), same_vector, 1.0
    ).loss.item() == pytest.approx(0.3, abs=1e-12)


def test_real_encoder_gives_unequal_scores():
    outcome = Contrastive(dot)(batch_of(ROWS, KNOWN), SmallEncoder(), 0.1)
    assert abs(outcome.loss.item() - math.log(18)) > 0.1
