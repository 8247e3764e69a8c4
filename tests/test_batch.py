"""Texts and batches: ragged, selectable, padded as told; identities that only equal texts share."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from trainer.batch import Batch, Texts, identity

token_lists = some.lists(
    some.lists(some.integers(1, 1000), min_size=1, max_size=9), min_size=1, max_size=8
)


def as_lists(texts):
    return [
        texts.tokens[texts.offsets[row] : texts.offsets[row + 1]].tolist()
        for row in range(len(texts))
    ]


def texts_from(lists, pad_token_id=0):
    return Texts.of(lists, list(range(100, 100 + len(lists))), pad_token_id)


class TestIdentity:
    def test_identity_is_the_same_in_every_run(self):
        """Pinned: a run folder, an index and another machine must agree on it."""
        assert identity("delete a disk") == 9077591294455710007

    @given(some.text(), some.text())
    @settings(max_examples=200, deadline=None)
    def test_identity_is_equal_only_for_equal_texts(self, one, other):
        assert (identity(one) == identity(other)) == (one == other)

    def test_identity_fits_a_signed_64_bit_tensor_and_is_never_the_padding(self):
        numbers = [identity(str(number)) for number in range(2000)]
        assert torch.tensor(numbers).tolist() == numbers
        assert min(numbers) >= 0
        assert len(set(numbers)) == 2000

    def test_identity_of_half_a_surrogate_pair_exists(self):
        assert identity("\ud800") != identity("\ud801")


class TestTexts:
    @given(token_lists)
    @settings(max_examples=60, deadline=None)
    def test_texts_have_the_given_tokens(self, lists):
        texts = texts_from(lists)
        assert as_lists(texts) == lists
        assert len(texts) == len(lists)
        assert texts.lengths.tolist() == [len(tokens) for tokens in lists]

    @given(token_lists, some.data())
    @settings(max_examples=60, deadline=None)
    def test_select_equals_indexing_of_a_list(self, lists, data):
        rows = data.draw(some.lists(some.integers(0, len(lists) - 1), max_size=12))
        picked = texts_from(lists).select(torch.tensor(rows, dtype=torch.long))
        assert as_lists(picked) == [lists[row] for row in rows]
        assert picked.identities.tolist() == [100 + row for row in rows]
        assert picked.offsets.tolist()[0] == 0

    def test_select_keeps_the_prompt_and_the_padding(self):
        texts = Texts.of([[1, 2], [3]], [1, 2], pad_token_id=9, prompt_tokens=1).select(
            torch.tensor([1])
        )
        assert (texts.pad_token_id, texts.prompt_tokens) == (9, 1)

    @given(token_lists, some.integers(0, 3))
    @settings(max_examples=60, deadline=None)
    def test_padded_tensors_equal_loops(self, lists, pad):
        ids, real = texts_from(lists, pad).pad()
        longest = max(map(len, lists))
        assert ids.tolist() == [tokens + [pad] * (longest - len(tokens)) for tokens in lists]
        assert real.tolist() == [
            [True] * len(tokens) + [False] * (longest - len(tokens)) for tokens in lists
        ]

    def test_token_equal_to_the_padding_is_real(self):
        _, real = Texts.of([[0, 0], [0]], [1, 2], pad_token_id=0).pad()
        assert real.tolist() == [[True, True], [True, False]]

    def test_empty_texts_have_no_rows(self):
        assert len(Texts.of([], [])) == 0
        assert Texts.of([], []).tokens.dtype == torch.long

    def test_texts_are_immutable(self):
        with pytest.raises(dataclasses.FrozenInstanceError):
            texts_from([[1]]).pad_token_id = 1  # type: ignore[misc]


class TestBatch:
    def batch(self, documents):
        return Batch(
            texts_from([[1], [2, 3]]),
            texts_from([[4]] * documents),
            torch.tensor([[1], [2]]),
            torch.tensor([[1.0], [2.0]]),
            ("a:1", "a:2"),
        )

    def test_batch_counts_the_documents_per_query(self):
        assert [self.batch(documents).documents_per_query for documents in (2, 4, 6)] == [1, 2, 3]

    def test_documents_that_cannot_be_divided_are_refused(self):
        with pytest.raises(
            ValueError, match="3 documents cannot be divided evenly among 2 queries"
        ):
            self.batch(3)

    def test_batch_without_queries_is_refused(self):
        with pytest.raises(ValueError, match="among 0 queries"):
            Batch(Texts.of([], []), Texts.of([], []), torch.zeros(0, 1, dtype=torch.long))

    def test_batch_moves_all_its_tensors(self):
        moved = self.batch(4).to("meta")
        tensors = [
            moved.queries.tokens,
            moved.queries.offsets,
            moved.documents.identities,
            moved.known_positives,
            moved.labels,
        ]
        assert {tensor.device.type for tensor in tensors} == {"meta"}
        assert moved.sample_ids == ("a:1", "a:2")
        assert self.batch(4).queries.tokens.device.type == "cpu"
