import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as given

from trainer.retrieval.token_index import lists as token_lists
from trainer.retrieval.token_index.lists import TokenLists
from trainer.vectors.ragged import offsets_of

CENTROIDS = 9


def drawn(data):
    """Tokens' centroids, where documents begin, which are deleted, and the similarities of a
    query's tokens with the centroids.
    """
    lengths = np.array(data.draw(given.lists(given.integers(1, 7), min_size=1, max_size=12)))
    random = np.random.default_rng(data.draw(given.integers(0, 99)))
    ids = random.integers(0, CENTROIDS, lengths.sum()).astype(np.uint16)
    similarities = random.permutation(3 * CENTROIDS).reshape(3, CENTROIDS).astype(np.float32)
    return ids, offsets_of(lengths), random.random(len(lengths)) < 0.2, similarities


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(given.data())
def test_lists_have_each_document_of_a_centroid_once_in_order(data):
    ids, offsets, deleted, _ = drawn(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_lists, "_TOKENS_AT_ONCE", data.draw(given.integers(1, 60)))
        lists = TokenLists.of(ids, offsets, CENTROIDS, deleted)
    for centroid in range(CENTROIDS):
        wanted = [
            row
            for row in range(len(deleted))
            if centroid in ids[offsets[row] : offsets[row + 1]] and not deleted[row]
        ]
        assert (
            lists.documents[lists.starts[centroid] : lists.starts[centroid + 1]].tolist() == wanted
        )


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(given.data(), given.integers(1, 12))
def test_gathered_candidates_equal_the_double_loop(data, probes):
    ids, offsets, deleted, similarities = drawn(data)
    lists = TokenLists.of(ids, offsets, CENTROIDS, deleted)
    found = lists.document_scores(similarities, probes, len(deleted))
    for row in range(len(deleted)):
        wanted = 0.0
        for near in similarities:
            probed = np.argsort(-near)[:probes]
            there = [
                near[centroid]
                for centroid in ids[offsets[row] : offsets[row + 1]]
                if centroid in probed
            ]
            wanted += max(there, default=near[probed[-1]]) - near[probed[-1]]
        assert found[row] == (0 if deleted[row] else wanted)
