"""Hard negatives against a softmax written out in NumPy, candidate by candidate."""

import numpy as np
import pytest
import torch
from twins import SmallEncoder, alike, full_batch, is_candidate, one_by_one, value_and_gradient

from trainer import log_partition as partition
from trainer.objectives.contrastive import Contrastive
from trainer.objectives.hard_negatives import Hardness
from trainer.scores import dot

TEMPERATURE = 0.2


def negatives_of(batch, scores, query, top_k, semi_hard):
    """Places of the negatives that count for a query, by a plain sort."""
    own = query * batch.documents_per_query
    places = [
        place
        for place in range(len(batch.documents))
        if place != own and is_candidate(batch, query, place)
    ]
    if semi_hard:
        places = [place for place in places if scores[query, place] < scores[query, own]]
    places.sort(key=lambda place: -scores[query, place])
    if top_k is None or len(places) <= top_k:
        return places
    last = scores[query, places[top_k - 1]]
    return [
        place for place in places if scores[query, place] >= last - 1e-9
    ]  # twins of a text score the same, and count alike


def written_out(batch, scores, hardness):
    """The loss in NumPy."""
    losses = []
    for query in range(len(batch.queries)):
        places = negatives_of(batch, scores, query, hardness.top_k, hardness.semi_hard)
        positive = np.exp(scores[query, query * batch.documents_per_query] / TEMPERATURE)
        negatives = np.exp(scores[query, places] / TEMPERATURE)
        weights = negatives**hardness.beta
        (
            losses.append(
                -np.log(positive / (positive + (weights / weights.mean() * negatives).sum()))
            )
            if places
            else losses.append(0.0)
        )
    return np.mean(losses)


CASES = [
    Hardness(top_k=1),
    Hardness(top_k=3),
    Hardness(top_k=1000),
    Hardness(semi_hard=True),
    Hardness(top_k=2, semi_hard=True),
    Hardness(beta=0.5),
    Hardness(beta=2.0),
    Hardness(top_k=4, beta=1.0),
]


@pytest.mark.parametrize("hardness", CASES, ids=str)
class TestHardness:
    def scores(self, encoder, batch):
        queries, documents = (
            torch.stack(one_by_one(texts, encoder)).detach().numpy()
            for texts in (batch.queries, batch.documents)
        )
        return queries @ documents.T

    def test_hardness_equals_an_explicit_softmax(self, hardness):
        encoder, batch = SmallEncoder(), full_batch()
        found = Contrastive(dot, hardness=hardness)(batch, encoder, TEMPERATURE)
        scores = self.scores(encoder, batch)
        assert found.loss.item() == pytest.approx(written_out(batch, scores, hardness), abs=1e-10)
        counted = sum(
            len(negatives_of(batch, scores, query, hardness.top_k, hardness.semi_hard))
            for query in range(len(batch.queries))
        )
        assert (
            found.metrics["negatives_left_out"]
            == len(batch.queries) * (len(batch.documents) - 1) - counted
        )

    def test_gradient_is_the_same_in_tiles(self, hardness, monkeypatch):
        encoder, batch = SmallEncoder(), full_batch()
        wanted = value_and_gradient(
            Contrastive(dot, hardness=hardness)(batch, encoder, TEMPERATURE),
            list(encoder.parameters()),
        )
        monkeypatch.setattr(partition, "TILE_SCORES", {"cpu": 16, "cuda": 16})
        monkeypatch.setitem(partition.KEPT_NUMBERS, "cpu", 20)
        found = value_and_gradient(
            Contrastive(dot, hardness=hardness)(batch, encoder, TEMPERATURE),
            list(encoder.parameters()),
        )
        assert alike(found, wanted, 1e-10)

    def test_hardness_differs_from_equal_weights(self, hardness):
        encoder, batch = SmallEncoder(), full_batch()
        plain = Contrastive(dot)(batch, encoder, TEMPERATURE).loss.item()
        found = Contrastive(dot, hardness=hardness)(batch, encoder, TEMPERATURE).loss.item()
        assert (abs(found - plain) > 1e-3) == (hardness.top_k != 1000)


def test_query_without_a_remaining_negative_has_no_loss_and_no_gradient():
    encoder, batch = SmallEncoder(), full_batch()
    last = torch.zeros(len(batch.queries), 6, dtype=torch.float64)
    everything = Contrastive(dot, hardness=Hardness(semi_hard=True))(
        batch,
        lambda texts: (
            encoder(texts) * 0 + last[: len(texts), :1] if len(texts) == 6 else encoder(texts)
        ),
        0.2,
    )
    value, gradient = value_and_gradient(everything, list(encoder.parameters()))
    assert value == 0
    assert gradient.isfinite().all()


def test_gradient_of_the_weights_equals_the_formula():
    """Robinson et al.'s own code lets it flow through the weights too; finite differences agree."""
    encoder, batch = SmallEncoder(), full_batch()

    def loss():
        return Contrastive(dot, hardness=Hardness(beta=1.5))(batch, encoder, TEMPERATURE).loss

    gradient = torch.autograd.grad(loss(), encoder.weight)[0]
    direction, step = torch.randn_like(encoder.weight), 1e-6
    with torch.no_grad():
        values = []
        for sign in (1, -1):
            encoder.weight += sign * step * direction
            values.append(loss().item())
            encoder.weight -= sign * step * direction
    assert (gradient * direction).sum().item() == pytest.approx(
        (values[0] - values[1]) / (2 * step), rel=1e-6
    )
