"""The log of the partition sum, in tiles of which some are kept."""

import weakref

import pytest
import torch
from twins import alike, excluding, value_and_gradient

from trainer import log_partition as partition
from trainer.log_partition import log_partition
from trainer.scores import dot, maxsim


class TestLogPartition:
    def test_log_partition_equals_the_sum_over_the_candidates(self):
        queries, documents = (
            torch.randn(3, 4, dtype=torch.float64),
            torch.randn(5, 4, dtype=torch.float64),
        )
        excluded = torch.tensor(
            [[False] * 5, [True, False, True, False, True], [True, True, True, True, False]]
        )
        found = log_partition(queries, documents, dot, 0.3, excluding(excluded)).queries
        for row in range(3):
            kept = [
                torch.exp(queries[row] @ documents[place] / 0.3)
                for place in range(5)
                if not excluded[row, place]
            ]
            assert found[row].item() == pytest.approx(torch.log(sum(kept)).item(), abs=1e-10)

    def test_excluded_document_has_a_gradient_of_exactly_zero_even_with_a_huge_score(self):
        queries = torch.ones(1, 1, dtype=torch.float64)
        documents = torch.tensor([[1.0], [1e300]], dtype=torch.float64, requires_grad=True)
        log_partition(
            queries, documents, dot, 0.05, excluding(torch.tensor([[False, True]]))
        ).queries.sum().backward()
        assert documents.grad.flatten().tolist() == [20.0, 0.0]

    def test_large_scores_do_not_overflow(self):
        assert log_partition(
            torch.tensor([[1.0]]), torch.tensor([[1.0], [1.0]]), dot, 1e-3
        ).queries.item() == pytest.approx(1000.693, abs=1e-3)


QUERIES, DOCUMENTS, TOKENS = 7, 14, {dot: (1, 1), maxsim: (3, 4)}
KEPT = {"none": 0, "some": 50, "all": 10**6}


class Watched:
    """A score that counts its calls, and how many numbers with a graph are still alive for each
    token of a query and each document.
    """

    def __init__(self, score):
        self.score, self.calls, self.made = score, 0, []

    def __call__(self, queries, documents):
        scores = self.score(queries, documents)
        self.calls += 1
        if scores.requires_grad:
            self.made.append((weakref.ref(scores), scores.numel() * queries.shape[1:-1].numel()))
        return scores

    def alive(self):
        return sum(numbers for scores, numbers in self.made if scores() is not None)


def embeddings(score):
    tokens = [(), ()] if score is dot else [(count,) for count in TOKENS[score]]
    shapes = [(count, *some, 5) for count, some in zip((QUERIES, DOCUMENTS), tokens, strict=True)]
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


def weighted(found, weights):
    """A number whose gradient differs in every row and column."""
    columns = 0 if found.positives is None else (found.positives * weights.flip(0)).sum()
    return (found.queries * weights).sum() + columns


@pytest.fixture
def small_tiles(score, monkeypatch):
    """Tiles of three queries and at most three documents."""
    monkeypatch.setitem(partition.TILE_SCORES, "cpu", 9 * TOKENS[score][0])


@pytest.mark.parametrize("score", [dot, maxsim])
class TestKeptTiles:
    @pytest.mark.parametrize("kept", KEPT)
    @pytest.mark.parametrize("symmetric", [False, True])
    @pytest.mark.parametrize("masked", [False, True])
    def test_gradient_equals_that_of_the_whole_matrix(
        self, score, kept, symmetric, masked, small_tiles, monkeypatch
    ):
        queries, documents = embeddings(score)
        mask = (torch.rand(QUERIES, DOCUMENTS) < 0.3) & masked
        mask[range(QUERIES), range(0, DOCUMENTS, 2)] = False
        weights = torch.randn(QUERIES, dtype=torch.float64)
        scores = (score(queries, documents) / 0.3).masked_fill(mask, -torch.inf)
        columns = scores[:, ::2].logsumexp(0) if symmetric else None
        wanted = value_and_gradient(
            weighted(
                partition.LogPartition(scores.logsumexp(1), columns, torch.tensor(0), queries),
                weights,
            ),
            (queries, documents),
        )

        monkeypatch.setitem(partition.KEPT_NUMBERS, "cpu", KEPT[kept])
        found = log_partition(
            queries,
            documents,
            score,
            0.3,
            excluding(mask) if masked else None,
            symmetric=symmetric,
        )
        assert found.excluded_counts.tolist() == mask.sum(1).tolist()
        assert alike(
            value_and_gradient(weighted(found, weights), (queries, documents)), wanted, 1e-10
        )

    def test_kept_tiles_are_not_computed_again(self, score, small_tiles, monkeypatch):
        def calls(kept):
            monkeypatch.setitem(partition.KEPT_NUMBERS, "cpu", KEPT[kept])
            watched = Watched(score)
            loss = log_partition(*embeddings(score), watched, 0.3).queries.sum()
            before = watched.calls
            loss.backward()
            return before, watched.calls - before

        tiles, again = calls("none")
        assert tiles == again == 15
        assert calls("all") == (tiles, 0)
        assert 0 < calls("some")[1] < tiles

    @pytest.mark.parametrize("kept", KEPT)
    def test_kept_tiles_are_bounded_and_freed_after_the_backward_pass(
        self, score, kept, small_tiles, monkeypatch
    ):
        monkeypatch.setitem(partition.KEPT_NUMBERS, "cpu", KEPT[kept])
        watched = Watched(score)
        found = log_partition(*embeddings(score), watched, 0.3)
        everything = QUERIES * DOCUMENTS * TOKENS[score][0]
        assert watched.alive() <= KEPT[kept]
        assert (
            watched.alive() > {"none": -1, "some": KEPT["some"] // 2, "all": everything - 1}[kept]
        )
        found.queries.sum().backward()
        assert watched.alive() == 0
        assert found.queries.grad_fn is not None, "while the loss is still there"

    def test_tiles_are_not_kept_without_a_backward_pass(self, score, small_tiles):
        watched = Watched(score)
        with torch.no_grad():
            found = log_partition(*embeddings(score), watched, 0.3)
        assert watched.calls == 15
        assert watched.alive() == 0
        assert found.queries.isfinite().all()

    def test_second_backward_pass_computes_again(self, score, small_tiles):
        inputs = embeddings(score)
        loss = log_partition(*inputs, score, 0.3).queries.sum()
        first, second = (
            torch.autograd.grad(loss, inputs, retain_graph=True),
            torch.autograd.grad(loss, inputs),
        )
        for one, other in zip(first, second, strict=True):
            torch.testing.assert_close(other, one, atol=1e-12, rtol=0)
