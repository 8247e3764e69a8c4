"""Micro-batches and encoding in chunks. That chunks change no gradient is law 1."""

import itertools
import resource
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from late_interaction_toys import new_encoder
from matrix import batch_of, trained
from ranks import on_ranks
from twins import SmallEncoder, alike, texts_of, value_and_gradient

from trainer import microbatches as chunks
from trainer.collectives import rank
from trainer.microbatches import (
    MicroBatching,
    divide_texts,
    in_microbatches,
    micro_batches,
    token_count,
)
from trainer.models.cross_encoder import CrossEncoderSettings, build_cross_encoder
from trainer.models.dense import DenseSettings, build_dense_encoder
from trainer.models.static_student import StaticSettings, build_static_encoder

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


def dense(folder):
    return build_dense_encoder(DenseSettings(backbone=str(folder), dropout=0.2))


def late(folder):
    return new_encoder(folder, dropout=0.2)


def cross_encoder(folder):
    return build_cross_encoder(CrossEncoderSettings(backbone=str(folder), dropout=0.2))


def static(folder):
    return build_static_encoder(StaticSettings(backbone=str(folder), dimensions=12))


ENCODERS = {
    "dense": (dense, "bert"),
    "padded": (dense, "mpnet"),
    "late interaction": (late, "bert"),
    "cross-encoder": (cross_encoder, "bert"),
    "static": (static, "bert"),
}


class TestPreparation:
    """A batch whose micro-batches were made ahead of the step gives the same bits."""

    @staticmethod
    def results(encoder, kept_tokens, is_prepared):
        """Embeddings and gradients, and the sizes of the micro-batches that came with numbers."""
        sizes = []

        def record(_, inputs):
            if inputs[0].numbers is not None:
                sizes.append(len(inputs[0]))

        hook = encoder.register_forward_pre_hook(record)
        batching = MicroBatching(encoder, 60, kept_tokens, 3, encoder.is_padded, encoder.pack)
        batch = batch_of(encoder)
        if is_prepared:
            batch = batching.prepare(batch)
        encode = batching.for_step(2, batch.divisions)
        embeddings = [encode(texts) for texts in (batch.queries, batch.documents)]
        loss = sum((part.flatten() * torch.arange(part.numel())).sum() for part in embeddings)
        gradients = torch.autograd.grad(loss, list(trained(encoder).values()), allow_unused=True)
        hook.remove()
        return [*embeddings, *gradients], sizes

    @pytest.mark.parametrize("kept_tokens", [None, 70], ids=["kept", "recomputed"])
    @pytest.mark.parametrize("name", ENCODERS)
    def test_prepared_batch_gives_the_same_bits(self, toy_folder, name, kept_tokens):
        build, family = ENCODERS[name]
        encoder = build(toy_folder(family))
        results, sizes = self.results(encoder, kept_tokens, is_prepared=True)
        references, no_sizes = self.results(encoder, kept_tokens, is_prepared=False)
        assert len(sizes) > 3
        assert no_sizes == []
        assert any(gradient is not None and gradient.any() for gradient in references[2:])
        for result, reference in zip(results, references, strict=True):
            assert (result is reference is None) or torch.equal(result, reference)

    def test_texts_of_another_batch_are_divided_in_the_step(self):
        encoder, texts, others = SmallEncoder(), texts_of(WORDS), texts_of(["az", "show"])
        encode = in_microbatches(encoder, 24, divisions=[divide_texts(texts, 24)])
        assert torch.equal(encode(others), in_microbatches(SmallEncoder(), 24)(others))

    def test_division_has_each_distinct_text_once_longest_first(self):
        texts = texts_of(WORDS)
        division = divide_texts(texts, 24)
        identities = torch.cat([part.identities for part in division.micro_batches])
        lengths = torch.cat([part.lengths for part in division.micro_batches]).tolist()
        assert len(division.micro_batches) > 1
        assert lengths == sorted(lengths, reverse=True)
        assert len(identities) == len(set(WORDS))
        assert torch.equal(identities[division.rows], texts.identities)


def results_of_ranks(words_of_ranks, is_prepared):
    encoder, texts = SmallEncoder(dropout=0.5), texts_of(words_of_ranks[rank()])
    divisions = [divide_texts(texts, 14)] if is_prepared else []
    encode = in_microbatches(encoder, 14, kept_tokens=28, seed=4, divisions=divisions)
    embeddings = encode(texts)
    (embeddings * torch.arange(embeddings.numel()).view_as(embeddings)).sum().backward()
    gradients = [parameter.grad for parameter in encoder.parameters()]
    return list(encoder.encoded), [embeddings.detach(), *gradients]


LONG = ("deletethisdisk", "andthismachine", "showallofthem", "makeadatabase")


@pytest.mark.parametrize("short", [("az", "show", "q"), ("az",)], ids=["halved", "repeated"])
def test_rank_with_fewer_prepared_micro_batches_encodes_as_many(short):
    """The largest ones are halved, or the first is repeated, as without preparation."""
    prepared, references = (
        on_ranks(2, results_of_ranks, (LONG, short), way) for way in (True, False)
    )
    for (sizes, results), (reference_sizes, expected) in zip(prepared, references, strict=True):
        assert sizes == reference_sizes
        assert all(map(torch.equal, results, expected))
    (long_sizes, _), (short_sizes, _) = prepared
    assert len(long_sizes) == len(short_sizes) > len(LONG)
    assert micro_batches(texts_of(short).lengths, 14)[0].numel() == len(short)
