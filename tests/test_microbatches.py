"""Micro-batches and encoding in chunks. That chunks change no gradient is law 1."""

import itertools
import resource
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from twins import SmallEncoder, alike, texts_of, value_and_gradient

from trainer import microbatches as chunks
from trainer.microbatches import in_microbatches, micro_batches, token_count

WORDS = ("delete", "az", "listalldisks", "createvault", "az", "show", "delete", "q")


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


LENGTHS = some.lists(some.integers(1, 50), min_size=1, max_size=40)


class TestMicroBatches:
    @pytest.mark.parametrize("is_padded", [False, True])
    @given(LENGTHS, some.integers(1, 200))
    @settings(max_examples=100, deadline=None)
    def test_micro_batches_have_each_row_once_longest_first_within_the_budget(
        self, is_padded, lengths, tokens
    ):
        counts = torch.tensor(lengths)
        cuts = micro_batches(counts, tokens, is_padded)
        rows = [row for cut in cuts for row in cut.tolist()]
        assert sorted(rows) == list(range(len(lengths)))
        assert [lengths[row] for row in rows] == sorted(lengths, reverse=True)
        for cut in cuts:
            assert len(cut) > 0
            assert len(cut) == 1 or token_count(counts[cut], is_padded) <= tokens

    @given(LENGTHS, some.integers(1, 200))
    @settings(max_examples=100, deadline=None)
    def test_micro_batches_without_padding_are_as_few_as_possible(self, lengths, tokens):
        fewest, room = 0, 0
        for length in sorted(lengths, reverse=True):
            if length > room:
                fewest, room = fewest + 1, max(tokens, length)
            room -= length
        assert len(micro_batches(torch.tensor(lengths), tokens)) == fewest

    def test_micro_batches_without_padding_have_similar_sizes(self):
        lengths = torch.randint(5, 60, (500,), generator=torch.manual_seed(0))
        sizes = [int(lengths[cut].sum()) for cut in micro_batches(lengths, 4096)]
        assert len(sizes) == -(-int(lengths.sum()) // 4096)
        assert min(sizes) > 0.9 * max(sizes)

    @given(some.lists(some.integers(1, 300), min_size=1, max_size=9), some.integers(1, 900))
    @settings(max_examples=60, deadline=None)
    def test_micro_batches_with_padding_take_the_least_time(self, lengths, tokens):
        def time(cuts):
            return sum(token_count(cut, True) + chunks.CUT_OVERHEAD for cut in cuts)

        ordered = torch.tensor(sorted(lengths, reverse=True))
        divisions = [
            ordered.tensor_split(ends)
            for count in range(len(lengths))
            for ends in itertools.combinations(range(1, len(lengths)), count)
        ]
        least = min(
            time(cuts)
            for cuts in divisions
            if all(len(cut) == 1 or token_count(cut, True) <= tokens for cut in cuts)
        )
        counts = torch.tensor(lengths)
        assert time([counts[cut] for cut in micro_batches(counts, tokens, True)]) == least

    def test_texts_of_one_length_keep_their_order(self):
        assert [cut.tolist() for cut in micro_batches(torch.tensor([3, 3, 3]), 6)] == [[0, 1], [2]]


class TestInChunks:
    @pytest.mark.parametrize("tokens", [1, 7, 24, 10_000, None])
    @pytest.mark.parametrize("recompute", [False, True])
    def test_vectors_keep_their_order(self, tokens, recompute):
        encoder, texts = SmallEncoder(), texts_of(WORDS)
        torch.testing.assert_close(
            in_microbatches(encoder, tokens, 0 if recompute else None)(texts),
            encoder(texts),
            atol=1e-12,
            rtol=0,
        )

    @pytest.mark.parametrize("recompute", [False, True])
    def test_duplicate_text_is_encoded_once(self, recompute):
        encoder = SmallEncoder()
        loss = in_microbatches(encoder, 24, 0 if recompute else None)(texts_of(WORDS)).sum()
        assert sum(encoder.encoded) == len(set(WORDS)) < len(WORDS)
        assert len(encoder.encoded) > 1
        loss.backward()
        assert sum(encoder.encoded) == len(set(WORDS)) * (2 if recompute else 1)

    @pytest.mark.parametrize("recompute", [False, True])
    def test_gradients_of_duplicates_are_summed(self, recompute):
        encoder, texts = SmallEncoder(), texts_of(WORDS)
        weights = torch.randn(len(WORDS), 6, dtype=torch.float64)
        parameters = list(encoder.parameters())
        wanted = value_and_gradient((encoder(texts) * weights).sum(), parameters)
        assert alike(
            value_and_gradient(
                (in_microbatches(encoder, 24, 0 if recompute else None)(texts) * weights).sum(),
                parameters,
            ),
            wanted,
            1e-10,
        )
        first = [WORDS.index(word) == place for place, word in enumerate(WORDS)]
        forgetful = (encoder(texts) * weights * torch.tensor(first)[:, None]).sum()
        assert not alike(value_and_gradient(forgetful, parameters), wanted, 1e-5), (
            "a gradient of the first copies alone would be seen"
        )

    def test_single_text_is_encoded(self):
        encoder, texts = SmallEncoder(), texts_of(["az"])
        assert torch.equal(in_microbatches(encoder, 1)(texts), encoder(texts))

    def test_recomputation_stores_no_activations(self):
        encoder, texts = SmallEncoder(dropout=0.5), texts_of(WORDS)

        def kept(recompute):
            count = []
            with torch.autograd.graph.saved_tensors_hooks(
                lambda tensor: count.append(tensor.numel()) or tensor, lambda tensor: tensor
            ):
                in_microbatches(encoder, 24, 0 if recompute else None)(texts)
            return sum(count)

        assert kept(recompute=True) < kept(recompute=False) / 5

    @pytest.mark.parametrize("recompute", [False, True])
    def test_freed_memory_is_released_before_each_recomputed_micro_batch(
        self, recompute, monkeypatch
    ):
        encoder, seen = SmallEncoder(), []
        monkeypatch.setattr(
            chunks, "release_freed_memory", lambda: seen.append(len(encoder.encoded))
        )
        in_microbatches(encoder, 24, 0 if recompute else None)(texts_of(WORDS)).sum().backward()
        assert len(encoder.encoded) >= 2
        assert seen == (list(range(len(encoder.encoded))) if recompute else [])

    @pytest.mark.skipif(sys.platform != "linux", reason="other systems have no malloc_trim")
    def test_released_memory_is_available_again(self):
        blocks = [bytearray(2**16) for _ in range(2000)]
        hold = [bytearray(2**16)]  # above the blocks, so that freeing them lowers no top
        before = resident_bytes()
        blocks.clear()
        chunks.release_freed_memory()
        assert before - resident_bytes() > 2**26
        assert hold

    def test_equal_identities_within_one_role_are_equal_tokens(self):
        """Identity is of the text without prompt and before truncation; within one `Texts` both are
        the same for all, so the first copy serves.
        """
        encoder = SmallEncoder()
        queries, documents = texts_of(["az", "show"]), texts_of(["az", "show"])
        prompted = type(documents).of(
            [[30, *documents.tokens[:2].tolist()], [30, *documents.tokens[2:].tolist()]],
            documents.identities.tolist(),
        )
        encode = in_microbatches(encoder, 100)
        assert (encode(queries) - encode(prompted)).abs().max() > 1e-3, (
            "nothing is carried over from one call to the next"
        )
