"""The objectives of a cross-encoder over a batch: which candidates are right, which are left out,
which grades are refused.
"""

from dataclasses import replace

import pytest
import torch
from twins import LABELS, TEACHER, alike, texts_of, value_and_gradient

from trainer import losses
from trainer.batch import Batch, identity, pair_identity
from trainer.errors import BadData
from trainer.microbatches import in_microbatches
from trainer.objectives import ranking_losses
from trainer.objectives.candidates import Distillation, MarginMse, gather_pair_scores
from trainer.objectives.ranking import Ranking

ROWS = (
    ("delete", "removedisk", "createdisk", "listalldisks"),
    ("make", "createdisk", "make", "az"),
    ("show", "listalldisks", "q", "listall"),
)
KNOWN = (("removedisk",), ("createdisk",), ("listalldisks", "listall"))
RIGHT_TOO = torch.tensor([[False, False, False], [False, True, False], [False, False, True]])
"""The query itself, and a hard negative that is known to be right."""


class SmallScorer(torch.nn.Module):
    """One number a text."""

    def __init__(self):
        super().__init__()
        self.tokens = torch.nn.Parameter(
            torch.randn(40, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        )

    def forward(self, texts):
        return torch.stack(
            [
                torch.tanh(self.tokens[ids]).sum()
                for ids in texts.tokens.split(texts.lengths.tolist())
            ]
        )


def batch_of(rows=ROWS, known=KNOWN, labels=None):
    pairs = [(row[0], text) for row in rows for text in row[1:]]
    documents = texts_of([query + document for query, document in pairs])
    names = torch.tensor(
        [pair_identity(identity(query), identity(document)) for query, document in pairs]
    )
    positives = [
        [pair_identity(identity(row[0]), identity(text)) for text in (*more, row[0])]
        for row, more in zip(rows, known, strict=True)
    ]
    widest = max(map(len, positives))
    return Batch(
        queries=texts_of([row[0] for row in rows]),
        documents=replace(documents, identities=names),
        known_positives=torch.tensor([list_ + [-1] * (widest - len(list_)) for list_ in positives]),
        labels=None if labels is None else torch.tensor(labels),
        sample_ids=tuple(f"rows:{number}" for number in range(1, len(rows) + 1)),
    )


@pytest.mark.parametrize(
    "loss",
    [
        ranking_losses.binary_cross_entropy,
        ranking_losses.rank_net,
        ranking_losses.softmax_cross_entropy,
        ranking_losses.lambda_loss,
    ],
)
@pytest.mark.parametrize("kept", [None, 0, 20])
def test_first_candidate_is_relevant_and_known_positives_are_excluded(loss, kept):
    scorer, batch = SmallScorer(), batch_of()
    scores = scorer(batch.documents).reshape(3, 3)
    wanted = loss(scores, torch.eye(3, dtype=scores.dtype)[:1].repeat(3, 1), RIGHT_TOO)
    found = Ranking(loss)(batch, in_microbatches(scorer, 20, kept), 1.0)
    assert found.metrics["masked_false_negatives"] == 2
    assert alike(
        value_and_gradient(found, [scorer.tokens]),
        value_and_gradient(wanted, [scorer.tokens]),
        1e-12,
    )


def test_labels_are_the_relevance_and_exclude_nothing():
    scorer, grades = SmallScorer(), [row[:3] for row in TEACHER[:3]]
    batch = batch_of(labels=grades)
    found = Ranking(ranking_losses.rank_net, (-10.0, 10.0))(batch, scorer, 1.0)
    scores = scorer(batch.documents).reshape(3, 3)
    wanted = ranking_losses.rank_net(
        scores, torch.tensor(grades, dtype=torch.float64), torch.zeros(3, 3, dtype=torch.bool)
    )
    assert alike(
        value_and_gradient(found, [scorer.tokens]),
        value_and_gradient(wanted, [scorer.tokens]),
        1e-12,
    )
    assert found.metrics["masked_false_negatives"] == 0


def test_scored_pair_needs_no_other_candidate():
    scorer = SmallScorer()
    batch = batch_of([row[:2] for row in ROWS], labels=[[label[0] / 4] for label in LABELS[:3]])
    found = Ranking(ranking_losses.binary_cross_entropy, (0.0, 1.0))(batch, scorer, 1.0)
    chances = scorer(batch.documents).sigmoid()
    aims = batch.labels.flatten()
    wanted = -(aims * chances.log() + (1 - aims) * (1 - chances).log()).mean()
    assert alike(
        value_and_gradient(found, [scorer.tokens]),
        value_and_gradient(wanted, [scorer.tokens]),
        1e-9,
    )


@pytest.mark.parametrize(
    ("bad", "shown"), [(1.5, "1.5"), (-0.1, "-0.1"), (float("nan"), "nan"), (float("inf"), "inf")]
)
def test_invalid_label_names_its_row(bad, shown):
    labels = [[1.0, 0.0, 0.5], [1.0, bad, 0.0], [1.0, 0.0, 0.0]]
    with pytest.raises(BadData, match=rf"rows:2: .*{shown}.* from 0 to 1"):
        Ranking(ranking_losses.binary_cross_entropy, (0.0, 1.0))(
            batch_of(labels=labels), SmallScorer(), 1.0
        )


def test_scores_of_the_teacher_are_compared_with_its_candidates():
    scorer, teacher = SmallScorer(), [row[:3] for row in TEACHER[:3]]
    batch = batch_of(labels=teacher)
    labels = torch.tensor(teacher, dtype=torch.float64)
    for loss, kind in ((losses.kl, Distillation), (losses.margin_mse, MarginMse)):
        scores = scorer(batch.documents).reshape(3, 3)
        found = value_and_gradient(kind(gather_pair_scores)(batch, scorer, 1.0), [scorer.tokens])
        assert alike(found, value_and_gradient(loss(scores, labels), [scorer.tokens]), 1e-12)
    with pytest.raises(ValueError, match="no labels"):
        MarginMse(gather_pair_scores)(batch_of(), scorer, 1.0)
