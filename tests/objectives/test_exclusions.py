"""Excluded pairs in tiles of every cut, against a mask written out pair by pair."""

import itertools

import pytest
import torch
from twins import batch_of

from trainer.batch import identity
from trainer.objectives.exclusions import (
    Outscoring,
    OwnPositives,
    RepeatedPositives,
    TaughtBetter,
    excluded_documents,
)

WORDS = "abcdefgh"


def random_batch(seed, distinct, queries=7, each=3):
    """Few distinct texts give many copies; a third of the queries have a second known positive."""
    generator = torch.Generator().manual_seed(seed)

    def words(count):
        return [WORDS[int(n)] for n in torch.randint(distinct, (count,), generator=generator)]

    rows = [tuple(words(1 + each)) for _ in range(queries)]
    known = [[row[1], *(words(1) if number % 3 == 0 else ())] for number, row in enumerate(rows)]
    labels = torch.randn(queries, each, generator=generator).tolist()
    return rows, known, batch_of(rows, known, labels)


def guide(texts):
    """A vector drawn from the identity of each text."""
    vectors = []
    for name in texts.identities.tolist():
        generator = torch.Generator().manual_seed(name % 2**40)
        vectors.append(torch.randn(4, generator=generator, dtype=torch.float64))
    return torch.stack(vectors)


def written_out(rows, known, batch, exclusions):
    """True where a document is no negative, pair by pair."""
    each = len(rows[0]) - 1
    mask = torch.zeros(len(rows), len(rows) * each, dtype=torch.bool)
    for query, (row, positives) in enumerate(zip(rows, known, strict=True)):
        for place in range(mask.shape[1]):
            other, candidate = divmod(place, each)
            text = rows[other][1 + candidate]
            excluded = text in positives or text == row[0]
            if RepeatedPositives in exclusions:
                excluded |= candidate > 0 and text == rows[other][1]
            if TaughtBetter in exclusions:
                labels = batch.labels[query]
                excluded |= other == query and bool(labels[candidate] > labels[0] - 0.1)
            if Outscoring in exclusions:
                queries, documents = guide(batch.queries)[query], guide(batch.documents)
                limit = queries @ documents[query * each] - 0.2
                excluded |= bool(queries @ documents[place] > limit)
            mask[query, place] = excluded and place != query * each
    return mask


def in_tiles(excluded, shape, height, width):
    """The mask put together from tiles; a pair that is named twice is an error."""
    mask = torch.zeros(shape, dtype=torch.long)
    for row, column in itertools.product(range(0, shape[0], height), range(0, shape[1], width)):
        rows = slice(row, min(row + height, shape[0]))
        columns = slice(column, min(column + width, shape[1]))
        if (pairs := excluded.in_tile(rows, columns)) is not None:
            mask[rows, columns].index_put_(pairs, torch.tensor(1), accumulate=True)
    assert mask.max() <= 1, "each pair once"
    return mask.bool()


MADE = {
    RepeatedPositives: RepeatedPositives(),
    TaughtBetter: TaughtBetter(0.1),
    Outscoring: Outscoring(guide, 0.2),
}


@pytest.mark.parametrize("distinct", [1, 3, 8])
@pytest.mark.parametrize(("height", "width"), [(7, 21), (1, 1), (3, 4), (2, 21)])
@pytest.mark.parametrize(
    "exclusions", [(), (RepeatedPositives,), (TaughtBetter,), (Outscoring,), tuple(MADE)]
)
def test_tiles_equal_the_mask(distinct, height, width, exclusions):
    for seed in range(5):
        rows, known, batch = random_batch(seed, distinct)
        wanted = written_out(rows, known, batch, exclusions)
        assert wanted.any()
        excluded = excluded_documents(batch, [MADE[kind] for kind in exclusions])
        assert torch.equal(in_tiles(excluded, wanted.shape, height, width), wanted)


def test_batch_without_copies_costs_nothing_per_tile():
    """The rule in a large batch: no pair is left to be looked for."""
    batch = batch_of([(f"query {number}", f"document {number}") for number in range(50)])
    excluded = excluded_documents(batch)
    assert [len(part.queries) for part in excluded.parts] == [0]
    assert excluded.in_tile(slice(0, 50), slice(0, 50)) is None


def test_own_positives_are_one_per_query():
    own = OwnPositives.of(4, 12)
    mask = in_tiles(own, (4, 12), 3, 5)
    assert mask.nonzero().tolist() == [[0, 0], [1, 3], [2, 6], [3, 9]]


def test_stored_pairs_do_not_grow_with_copies():
    """All queries share one document: as many pairs as queries, not queries x documents."""
    rows = [(f"query {number}", "same") for number in range(200)]
    (known,) = excluded_documents(batch_of(rows)).parts
    assert len(known.queries) == 200
    assert len(known.keys) == 200
    assert identity("same") in batch_of(rows).documents.identities.tolist()
