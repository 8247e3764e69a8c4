"""Objectives against twins that list every candidate: value, gradient norm and direction; and what
identity leaves out.
"""

from functools import partial

import pytest
import torch
import twins
from twins import (
    KNOWN,
    ROWS,
    TOLERANCE,
    SmallEncoder,
    alike,
    batch_of,
    full_batch,
    graded_batch,
    taught_batch,
    value_and_gradient,
)

from trainer import log_partition as partition
from trainer.batch import Batch, Texts, identity
from trainer.log_partition import log_partition
from trainer.modules.retriever import Temperature
from trainer.objectives import contrastive as objectives
from trainer.objectives.candidates import Cosent, Distillation, EmbeddingScores, MarginMse, Triplet
from trainer.objectives.contrastive import Contrastive
from trainer.objectives.exclusions import (
    Outscoring,
    RepeatedPositives,
    TaughtBetter,
    excluded_documents,
)
from trainer.scores import dot

CASES = {
    "contrastive": (
        full_batch,
        partial(Contrastive(dot), temperature=0.2),
        partial(twins.contrastive, temperature=0.2),
    ),
    "symmetric": (
        full_batch,
        partial(Contrastive(dot, symmetric=True), temperature=0.2),
        partial(twins.contrastive, temperature=0.2, symmetric=True),
    ),
    "in-batch negatives alone": (
        lambda: batch_of([row[:2] for row in ROWS], KNOWN),
        partial(Contrastive(dot), temperature=0.05),
        partial(twins.contrastive, temperature=0.05),
    ),
    "cosent": (
        graded_batch,
        partial(Cosent(EmbeddingScores(dot)), temperature=0.2),
        partial(twins.cosent, temperature=0.2),
    ),
    "triplet": (
        full_batch,
        partial(Triplet(EmbeddingScores(dot), margin=0.3), temperature=1.0),
        partial(twins.triplet, margin=0.3),
    ),
    "distillation": (
        taught_batch,
        partial(Distillation(EmbeddingScores(dot), teacher_temperature=3.0), temperature=0.2),
        partial(twins.distillation, temperature=0.2, teacher_temperature=3.0),
    ),
    "margin-mse": (
        taught_batch,
        partial(MarginMse(EmbeddingScores(dot)), temperature=1.0),
        twins.margin_mse,
    ),
}


@pytest.fixture(params=CASES)
def case(request):
    make, fast, slow = CASES[request.param]
    return make(), fast, slow


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
class TestEqualsItsTwin:
    def results(self, case, dtype):
        batch, _, slow = case
        encoder = SmallEncoder(dtype)
        assert len(set(batch.documents.lengths.tolist())) > 3, "lengths differ"
        return encoder, value_and_gradient(slow(batch, encoder), list(encoder.parameters()))

    def test_value_and_gradient_equal_those_of_the_slow_form(self, case, dtype):
        encoder, wanted = self.results(case, dtype)
        found = value_and_gradient(case[1](case[0], encoder), list(encoder.parameters()))
        assert alike(found, wanted, TOLERANCE[dtype])

    def test_loss_times_two_is_caught(self, case, dtype):
        encoder, wanted = self.results(case, dtype)
        value, gradient = value_and_gradient(
            2 * case[1](case[0], encoder).loss, list(encoder.parameters())
        )
        assert not alike((value, gradient), wanted, TOLERANCE[dtype])
        assert not alike((value / 2, gradient), wanted, TOLERANCE[dtype])

    def test_detached_documents_are_caught(self, case, dtype):
        encoder, wanted = self.results(case, dtype)
        documents = case[0].documents

        def half_detached(texts):
            return encoder(texts).detach() if texts is documents else encoder(texts)

        value, gradient = value_and_gradient(
            case[1](case[0], half_detached), list(encoder.parameters())
        )
        assert abs(value - wanted[0]) < 1e-5, "the value alone does not show it"
        assert not alike((value, gradient), wanted, TOLERANCE[dtype])


def test_ignored_mask_is_caught(monkeypatch):
    batch, encoder = full_batch(), SmallEncoder()
    parameters = list(encoder.parameters())
    wanted = value_and_gradient(twins.contrastive(batch, encoder, 0.2), parameters)
    monkeypatch.setattr(objectives, "excluded_documents", lambda *_: None)
    assert not alike(
        value_and_gradient(Contrastive(dot)(batch, encoder, 0.2), parameters),
        wanted,
        1e-5,
    )


class TestExcluded:
    def test_mask_equals_the_list_of_candidates(self):
        batch = full_batch()
        wanted = [
            [not twins.is_candidate(batch, query, place) for place in range(len(batch.documents))]
            for query in range(len(batch.queries))
        ]
        found = twins.mask_of(batch)
        assert found.tolist() == wanted
        assert 5 < found.sum() < found.numel() / 2

    def test_positive_is_a_candidate_even_if_it_is_the_text_of_the_query(self):
        batch = batch_of([("same", "same"), ("other", "same")])
        assert twins.mask_of(batch).tolist() == [[False, True], [True, False]]

    def test_padding_of_known_positives_excludes_nothing(self):
        batch = batch_of([("a", "b"), ("c", "d")], [["b", "x", "y"], ["d"]])
        assert not twins.mask_of(batch).any()


class TestGradientOfWhatIsNoNegative:
    """The gradient of the twin is exactly 0, not small: it is excluded, never multiplied."""

    def document_gradient(self, rows, known=None):
        """Norm of the gradient of each document's vector, from the first query's loss alone."""
        batch = batch_of(rows, known)
        encoder = SmallEncoder()
        queries = encoder(batch.queries).detach()
        documents = encoder(batch.documents).detach().requires_grad_()
        positive = (queries[0] @ documents[0]) / 0.2
        excluded = excluded_documents(batch)
        (log_partition(queries, documents, dot, 0.2, excluded).queries[0] - positive).backward()
        return documents.grad.norm(dim=1).tolist()

    def test_duplicate_of_the_positive_gets_no_gradient(self):
        own, negative, other, twin = self.document_gradient(
            [("find", "answer", "wrong"), ("seek", "bird", "answer")]
        )
        assert twin == 0.0
        assert min(own, negative, other) > 1e-3

    def test_further_known_positive_gets_no_gradient(self):
        rows = [("find", "answer"), ("find", "reply"), ("seek", "bird")]
        own, second, other = self.document_gradient(
            rows, [("answer", "reply"), ("answer", "reply"), ("bird",)]
        )
        assert second == 0.0
        assert min(own, other) > 1e-3
        assert self.document_gradient(rows)[1] > 1e-3, "unknown, it is a negative"

    def test_text_of_the_query_as_a_document_gets_no_gradient(self):
        own, itself, other, hard = self.document_gradient(
            [("find", "answer", "find"), ("seek", "bird", "tree")]
        )
        assert itself == 0.0
        assert min(own, other, hard) > 1e-3

    def test_excluded_query_is_no_negative_of_a_positive(self):
        """Symmetric: of the positive `answer`, a second query that has it too must feel nothing."""
        rows = [("find", "answer"), ("seek", "answer"), ("look", "bird")]
        batch, encoder = batch_of(rows), SmallEncoder()
        assert twins.mask_of(batch)[:, :1].flatten().tolist() == [False, True, False]
        queries = encoder(batch.queries).detach().requires_grad_()
        documents = encoder(batch.documents).detach()
        vectors = {id(batch.queries): queries, id(batch.documents): documents}
        one_way = Contrastive(dot)(batch, lambda texts: vectors[id(texts)], 0.2).loss
        both_ways = Contrastive(dot, symmetric=True)(
            batch, lambda texts: vectors[id(texts)], 0.2
        ).loss
        backward = 2 * both_ways - one_way
        # A softmax over {find, look}, over {seek, look}, and over all three for `bird`.
        scores = (documents @ queries.T) / 0.2
        wanted = (
            torch.logsumexp(scores[0, [0, 2]], 0)
            - scores[0, 0]
            + torch.logsumexp(scores[1, [1, 2]], 0)
            - scores[1, 1]
            + torch.logsumexp(scores[2], 0)
            - scores[2, 2]
        ) / 3
        assert alike(
            value_and_gradient(backward, [queries]), value_and_gradient(wanted, [queries]), 1e-10
        )


class TestTemperature:
    @pytest.mark.parametrize("symmetric", [False, True])
    def test_learned_temperature_gets_the_gradient_of_the_slow_form(self, symmetric):
        batch, encoder = full_batch(), SmallEncoder()
        temperature = Temperature(0.2, is_learned=True).double()
        parameters = [temperature.log, *encoder.parameters()]
        found = value_and_gradient(
            Contrastive(dot, symmetric=symmetric)(batch, encoder, temperature()), parameters
        )
        wanted = value_and_gradient(
            twins.contrastive(batch, encoder, temperature(), symmetric), parameters
        )
        assert alike(found, wanted, 1e-10)
        assert abs(found[1][0]) > 1e-3

    def test_fixed_temperature_gets_no_gradient(self):
        temperature = Temperature(0.2, is_learned=False)
        assert not temperature.log.requires_grad
        assert temperature().item() == pytest.approx(0.2, rel=1e-6)
        Contrastive(dot)(full_batch(), SmallEncoder(), temperature()).loss.backward()
        assert temperature.log.grad is None

    def test_temperature_stays_positive(self):
        temperature = Temperature(0.05, is_learned=True)
        with torch.no_grad():
            temperature.log -= 5
        assert temperature().item() > 0


def test_cosent_without_labels_is_refused():
    with pytest.raises(ValueError, match="no labels"):
        Cosent(EmbeddingScores(dot))(full_batch(), SmallEncoder(), 0.1)


def test_triplet_excludes_known_positives():
    """A hard negative that is another positive of its query moves nothing; the other negative still
    does.
    """
    embeddings = torch.randn(
        4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).requires_grad_()
    queries, documents = Texts.of([[1]], [10]), Texts.of([[1], [2], [3]], [1, 2, 3])
    batch = Batch(queries, documents, torch.tensor([[1, 2]]))
    table = {10: 0, 1: 1, 2: 2, 3: 3}
    loss = Triplet(EmbeddingScores(dot), margin=50.0)(
        batch, lambda texts: embeddings[[table[int(name)] for name in texts.identities]], 1.0
    ).loss
    loss.backward()
    assert embeddings.grad[2].abs().sum() == 0
    assert embeddings.grad[3].abs().sum() > 0
    positive, negative = embeddings[0] @ embeddings[1], embeddings[0] @ embeddings[3]
    assert loss.item() == pytest.approx((50.0 - positive + negative).item())


class TestFilters:
    """What is probably right though nobody said so."""

    @staticmethod
    def guide(texts):
        """Scores `answer` and `reply` alike for `find`, and `bird` far off."""
        table = {
            identity("find"): (1.0, 0.0),
            identity("answer"): (0.9, 0.1),
            identity("reply"): (0.95, 0.0),
            identity("bird"): (0.0, 1.0),
            identity("seek"): (0.0, 1.0),
            identity("near"): (0.85, 0.0),
            identity("far"): (0.1, 0.1),
        }
        return torch.tensor([table[int(name)] for name in texts.identities], dtype=torch.float64)

    ROWS = (("find", "answer", "reply"), ("seek", "bird", "near"))

    def mask(self, *filters, rows=ROWS, labels=None):
        batch = batch_of(rows, labels=labels)
        return twins.mask_of(batch, filters).tolist()

    def test_documents_that_the_guide_prefers_to_the_positive_are_excluded(self):
        assert self.mask(Outscoring(self.guide, 0.0)) == [
            [False, True, False, False],
            [False] * 4,
        ]

    def test_margin_excludes_more_but_never_the_positive(self):
        assert self.mask(Outscoring(self.guide, 0.1)) == [
            [False, True, False, True],
            [False] * 4,
        ]

    def test_negatives_with_higher_labels_than_the_positive_are_excluded(self):
        labels = [[3.0, 2.5], [1.0, 4.0]]
        assert self.mask(TaughtBetter(0.0), labels=labels) == [
            [False] * 4,
            [False, False, False, True],
        ]
        assert self.mask(TaughtBetter(1.0), labels=labels) == [
            [False, True, False, False],
            [False, False, False, True],
        ]
        with pytest.raises(ValueError, match="needs a score of every candidate"):
            self.mask(TaughtBetter(0.0))

    def test_excluded_documents_have_no_gradient(self):
        batch = batch_of(self.ROWS)
        encoder = SmallEncoder()
        queries, documents = (
            encoder(batch.queries).detach(),
            encoder(batch.documents).detach().requires_grad_(),
        )
        vectors = {id(batch.queries): queries, id(batch.documents): documents}
        filters = [Outscoring(self.guide, 0.0)]

        def gradient(filters):
            outcome = Contrastive(dot, exclusions=tuple(filters))(
                batch, lambda texts: vectors[id(texts)], 0.2
            )
            return torch.autograd.grad(outcome.loss, documents)[0].norm(dim=1), int(
                outcome.metrics["masked_false_negatives"]
            )

        (kept, none_left_out), (without, left_out) = gradient([]), gradient(filters)
        assert (none_left_out, left_out) == (0, 1)
        assert without[1] < kept[1]  # `reply` still is a negative of the other query
        assert without[1] > 0

    def test_tiles_agree_with_the_whole_matrix(self, monkeypatch):
        encoder, batch = SmallEncoder(), full_batch()
        filters = [Outscoring(lambda texts: encoder(texts).detach().flip(1), 0.05)]
        parameters = list(encoder.parameters())
        whole = Contrastive(dot, symmetric=True, exclusions=tuple(filters))(batch, encoder, 0.2)
        monkeypatch.setitem(partition.TILE_SCORES, "cpu", 9)
        tiled = Contrastive(dot, symmetric=True, exclusions=tuple(filters))(batch, encoder, 0.2)
        assert (
            whole.metrics["masked_false_negatives"]
            == tiled.metrics["masked_false_negatives"]
            > mask_count(batch)
        )
        assert alike(
            value_and_gradient(tiled, parameters), value_and_gradient(whole, parameters), 1e-10
        )


def mask_count(batch):
    return int(twins.mask_of(batch).sum())


def test_positive_used_as_padding_counts_for_no_query():
    """Rows of one and of three negatives: the loss over exactly those documents, by hand."""
    rows = [
        ("a query", "its answer", "wrong", "also wrong", "wrong too"),
        ("another", "the other", "bad", "the other", "the other"),
        ("third", *["right"] * 4),
    ]
    batch, encoder = batch_of(rows), SmallEncoder(torch.float64)
    queries, documents = encoder(batch.queries), encoder(batch.documents)
    scores = queries @ documents.T / 0.2
    there = [0, 1, 2, 3, 4, 5, 8]  # the others repeat the positive they stand behind
    wanted = torch.stack(
        [scores[number, there].logsumexp(0) - scores[number, 4 * number] for number in range(3)]
    ).mean()
    found = Contrastive(dot, exclusions=(RepeatedPositives(),))(batch, encoder, 0.2).loss
    assert float(found) == pytest.approx(float(wanted), rel=1e-10)
    assert abs(float(Contrastive(dot)(batch, encoder, 0.2).loss) - float(found)) > 1e-3
