"""Packed attention against PyTorch's attention, text by text."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torch.nn import functional
from twins import alike, value_and_gradient

from trainer.batch import Texts
from trainer.kernels import cpu_attention
from trainer.kernels.packed_attention import packed_attention
from trainer.kernels.packing import GROUP_OVERHEAD, PADDING_OVERHEAD, group_texts
from trainer.models.parts.packed import micro_batch, with_numbers

LENGTHS, HEADS, WIDTH = (90, 88, 19, 7, 7, 7, 3, 1), 4, 5
ATTENDED = (90, 2, 18, 7, 1, 6, 3, 1)


def packing_of(lengths, key_counts=None):
    texts = Texts.of([[0] * length for length in lengths], range(len(lengths)))
    key_counts = None if key_counts is None else torch.tensor(key_counts)
    device = torch.device("cpu")
    return micro_batch(with_numbers(texts, device, key_counts), device).packing


def rows(packing, heads=HEADS, dtype=torch.float64):
    count = len(packing.positions) + packing.fill
    return torch.randn(heads, count, WIDTH, dtype=dtype, requires_grad=True)


def text_by_text(query, key, value, packing, scale, is_causal, window):
    """The attention of each text alone, by PyTorch."""
    outputs = []
    ends = packing.lengths.cumsum()
    for start, end, count in zip(ends - packing.lengths, ends, packing.key_counts, strict=True):
        place = torch.arange(end - start)
        mask = (place < count).expand(len(place), -1)
        if is_causal:
            mask = mask & (place <= place[:, None])
        if window is not None:
            mask = mask & ((place - place[:, None]).abs() < window)
        parts = [tensor[None, :, start:end] for tensor in (query, key, value)]
        outputs.append(
            functional.scaled_dot_product_attention(
                *parts, mask, scale=scale, enable_gqa=len(key) < len(query)
            )[0].transpose(0, 1)
        )
    return torch.cat(outputs)


@pytest.mark.parametrize("is_plain", [True, False])
@pytest.mark.parametrize("key_heads", [HEADS, 2])
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize(
    ("window", "key_counts"), [(None, None), (1, None), (4, None), (None, ATTENDED)]
)
def test_texts_attend_to_themselves_alone(
    monkeypatch, is_plain, key_heads, window, is_causal, key_counts
):
    monkeypatch.setitem(cpu_attention._MAX_TOKENS, torch.float64, 512 if is_plain else 0)
    packing = packing_of(LENGTHS, key_counts)
    assert packing.fill > 0
    assert len(packing.groups) > 1
    query, key, value = rows(packing), rows(packing, key_heads), rows(packing, key_heads)
    output = packed_attention(query, key, value, packing, 0.3, is_causal, window, 0.0)
    count = len(packing.positions)
    assert output.shape == (count + packing.fill, HEADS, WIDTH)
    weights = torch.randn(count, HEADS, WIDTH, dtype=torch.float64)
    expected = text_by_text(query, key, value, packing, 0.3, is_causal, window)
    forms = [
        value_and_gradient((form * weights).sum(), [query, key, value])
        for form in (output[:count], expected)
    ]
    assert alike(*forms, 1e-10)
    assert (output[count:] == 0).all()


@pytest.mark.parametrize("lengths", [(9, 9, 9), (100, 9, 9, 9, 9, 9), (1,)])
def test_groups_of_one_length_have_no_padding(lengths):
    """There is nothing to copy, and no mask."""
    packing = packing_of(lengths)
    assert len(packing.groups) == len(set(lengths))
    for group in packing.groups:
        assert group.sources is None
        assert group.is_key is None


@given(some.lists(some.integers(1, 400), min_size=1, max_size=9))
@settings(max_examples=100, deadline=None)
def test_groups_take_the_least_time(lengths):
    lengths = np.sort(np.array(lengths))[::-1]

    def time(parts):
        return sum(map(group_time, parts))

    def group_time(part):
        products = len(part) * int(part[0]) ** 2
        is_padded = part[0] != part[-1]
        return products + GROUP_OVERHEAD + PADDING_OVERHEAD * int(part.sum()) * is_padded

    least = min(
        time(np.split(lengths, ends))
        for count in range(len(lengths))
        for ends in itertools.combinations(range(1, len(lengths)), count)
    )
    parts = group_texts(lengths)
    assert time([lengths[part] for part in parts]) == least
    assert np.concatenate([lengths[part] for part in parts]).tolist() == lengths.tolist()


def test_dropout_falls_on_probabilities_and_is_replayed():
    packing = packing_of(LENGTHS)
    query, key = rows(packing), rows(packing)
    ones = torch.ones_like(query)
    outputs = []
    for _ in range(2):
        torch.manual_seed(3)
        outputs.append(packed_attention(query, key, ones, packing, 1.0, False, None, 0.5))
    torch.testing.assert_close(*outputs)
    count = len(packing.positions)
    sums = outputs[0][:count].mean(-1)  # of the probabilities that are left, each doubled
    assert sums.std() > 0.1
    assert 0.8 < sums.mean() < 1.2
