"""The FLOPS regulariser against its formula, its warm-up, and the end of a collapsed training."""

from dataclasses import replace

import pytest
import torch
from twins import SmallEncoder, alike, full_batch, value_and_gradient

from trainer.errors import Collapse
from trainer.microbatches import in_microbatches
from trainer.objectives.contrastive import Contrastive
from trainer.objectives.regularizers.flops import RegularizedObjective
from trainer.scores import dot

CONTRASTIVE = Contrastive(dot)
VOCABULARY = 6
FIGURES = {"active_terms_per_query": 2.0, "active_terms_per_document": 4.0}


class SparseToy(SmallEncoder):
    """A small encoder whose vectors have zeros."""

    def forward(self, texts):
        return super().forward(texts).relu()


def flops(vectors, free_terms=0):
    """The formula of Paria et al. (2020), by loops."""
    rows = [row if (row > 0).sum() > free_terms else 0 * row for row in vectors]
    return sum(torch.stack([row[word] for row in rows]).mean() ** 2 for word in range(VOCABULARY))


@pytest.mark.parametrize("free_terms", [None, 2])
@pytest.mark.parametrize("tokens", [None, 12])
def test_loss_is_objective_plus_weighted_flops(free_terms, tokens):
    encoder, batch = SparseToy(), replace(full_batch(), step=1)
    encode = in_microbatches(encoder, tokens)
    outcome = RegularizedObjective(CONTRASTIVE, 3.0, 2.0, 4, free_terms)(batch, encode, 0.2)
    queries, documents = encoder(batch.queries), encoder(batch.documents)
    parts = [flops(vectors, free_terms or 0) for vectors in (queries, documents)]
    loss = CONTRASTIVE(batch, encoder, 0.2).loss + 0.25 * (3 * parts[0] + 2 * parts[1])
    weights = list(encoder.parameters())
    assert alike(
        value_and_gradient(outcome.loss, weights), value_and_gradient(loss, weights), 1e-10
    )
    assert outcome.metrics["query_flops"].item() == pytest.approx(parts[0].item())
    assert outcome.metrics["active_terms_per_document"].item() == pytest.approx(
        (documents > 0).double().sum(1).mean().item()
    )


def test_texts_with_few_terms_are_free():
    batch = full_batch()
    counts = (SparseToy()(batch.documents) > 0).sum(1)
    assert counts.min() <= 2 < counts.max(), "the limit of the test above divides the texts"


@pytest.mark.parametrize("role", ["query", "document"])
def test_vectors_without_terms_end_the_training(role):
    figures = FIGURES | {f"active_terms_per_{role}": 0.0}
    with pytest.raises(Collapse, match=rf"step 8: no {role} .* lower regularizer.{role}_weight"):
        RegularizedObjective(CONTRASTIVE, 1.0, 1.0).check(7, figures, VOCABULARY)
    assert Collapse("").exit_code == 86


def test_words_without_weight_in_a_table_end_the_training():
    figures = FIGURES | {"active_terms_per_query": 0.0}
    with pytest.raises(Collapse, match=r"Nothing regularises them.*head_learning_rate of a table"):
        RegularizedObjective(CONTRASTIVE, 0.0, 1.0).check(7, figures, VOCABULARY)


def test_dense_vectors_end_the_training_after_the_warm_up():
    figures = FIGURES | {"active_terms_per_document": 5.9}
    objective = RegularizedObjective(CONTRASTIVE, 1.0, 1.0, warmup_steps=4)
    objective.check(2, figures, VOCABULARY)
    objective.check(3, FIGURES, VOCABULARY)
    with pytest.raises(Collapse, match=r"6 of 6 terms are active per document.*Raise"):
        objective.check(3, figures, VOCABULARY)
    replace(objective, document_weight=0.0).check(3, figures, VOCABULARY)
