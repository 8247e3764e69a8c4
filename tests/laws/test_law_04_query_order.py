"""Law 4: the order of queries in a batch changes nothing, nor does the order of a query's
negatives.
"""

from dataclasses import replace
from functools import partial

import pytest
import torch
from twins import TOLERANCE, SmallEncoder, alike, full_batch, graded_batch, value_and_gradient

from trainer.objectives.candidates import Cosent, EmbeddingScores, Triplet
from trainer.objectives.contrastive import Contrastive
from trainer.scores import dot

OBJECTIVES = {
    "contrastive": (full_batch, partial(Contrastive(dot), temperature=0.1)),
    "symmetric": (
        full_batch,
        partial(Contrastive(dot, symmetric=True), temperature=0.1),
    ),
    "cosent": (graded_batch, partial(Cosent(EmbeddingScores(dot)), temperature=0.1)),
    "triplet": (full_batch, partial(Triplet(EmbeddingScores(dot), margin=0.3), temperature=1.0)),
}


def reordered(batch, order, candidates=None):
    """The rows of a batch in another order; `candidates`: each query's own documents in another
    order too.
    """
    each = batch.documents_per_query
    within = torch.arange(each) if candidates is None else torch.tensor(candidates)
    documents = (torch.tensor(list(order))[:, None] * each + within).flatten()
    return replace(
        batch,
        queries=batch.queries.select(torch.tensor(list(order))),
        documents=batch.documents.select(documents),
        known_positives=batch.known_positives[list(order)],
        labels=None if batch.labels is None else batch.labels[list(order)],
    )


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
class TestOrder:
    def results(self, name, dtype, *changed):
        make, objective = OBJECTIVES[name]
        encoder = SmallEncoder(dtype)
        return [
            value_and_gradient(objective(batch, encoder), list(encoder.parameters()))
            for batch in (make(), *(change(make()) for change in changed))
        ]

    @pytest.mark.parametrize("order", [(5, 4, 3, 2, 1, 0), (2, 0, 1, 5, 3, 4)])
    def test_order_of_queries_changes_nothing(self, name, dtype, order):
        before, after = self.results(name, dtype, lambda batch: reordered(batch, order))
        assert alike(after, before, TOLERANCE[dtype])

    def test_order_of_negatives_changes_nothing(self, name, dtype):
        if name == "cosent":
            pytest.skip("a graded pair has no negatives")
        before, after, wrong = self.results(
            name,
            dtype,
            lambda batch: reordered(batch, range(6), (0, 2, 1)),
            lambda batch: reordered(batch, range(6), (1, 0, 2)),
        )
        assert alike(after, before, TOLERANCE[dtype])
        assert not alike(wrong, before, 1e-3), "a negative in the place of the positive is seen"

    def test_queries_moved_without_their_documents_are_caught(self, name, dtype):
        def torn(batch):
            return replace(reordered(batch, (1, 2, 3, 4, 5, 0)), documents=batch.documents)

        before, after = self.results(name, dtype, torn)
        assert not alike(after, before, 1e-3)
