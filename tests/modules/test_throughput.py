"""Counts of tokens, padding and operations of a step."""

import torch
from torch import nn

from trainer.batch import Batch, Texts
from trainer.kernels.matrix_peak import matrix_peak
from trainer.microbatches import MicroBatching
from trainer.models.dense import DenseSettings, build_dense_encoder
from trainer.models.parts.lora import Lora
from trainer.modules.throughput import StepCounts, TokenCost


def batch():
    queries = Texts.of([[1, 2], [1, 2], [3]], [1, 1, 2])
    documents = Texts.of([[1] * 4, [2] * 6, [3] * 2], [3, 4, 5])
    return MicroBatching(lambda texts: texts, 8).prepare(
        Batch(queries, documents, torch.full((3, 1), -1))
    )


def test_step_counts_tokens_of_all_texts_and_distinct_ones():
    counts = StepCounts.of(batch(), is_padded=False, encodes_queries=True)
    assert counts == StepCounts(17, 2 + 1 + 12, 2 + 1 + 12, 4 + 1 + 16 + 36 + 4)


def test_padding_and_queries_that_are_not_encoded():
    counts = StepCounts.of(batch(), is_padded=True, encodes_queries=False)
    assert (counts.tokens, counts.encoded_tokens) == (12, 12)
    assert counts.positions == 6 + 2 * 4, "[6] alone, and [4, 2] padded"


def test_operations_per_token_of_frozen_and_trained_weights(toy_folder):
    folder = str(toy_folder("bert"))
    full = build_dense_encoder(DenseSettings(backbone=folder, lora=None))
    sizes = [module.weight.numel() for module in full.modules() if isinstance(module, nn.Linear)]
    assert TokenCost.of(full).per_token == 6 * sum(sizes)
    settings = full.backbone.config
    expected = 12 * settings.num_hidden_layers * settings.hidden_size
    assert TokenCost.of(full).per_squared_token == expected > 0
    with_lora = build_dense_encoder(DenseSettings(backbone=folder, lora=Lora(rank=2)))
    cost = TokenCost.of(with_lora)
    adapters = sum(weight.numel() for weight in with_lora.parameters() if weight.requires_grad)
    assert cost.per_token == 4 * sum(sizes) + 6 * adapters
    assert cost.per_squared_token == expected


def test_matrix_peak_is_a_speed_of_this_machine():
    assert 1e8 < matrix_peak(torch.device("cpu"), torch.float32) < 1e15
