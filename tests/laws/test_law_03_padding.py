"""Law 3: padding changes nothing: neither a vector nor a gradient depends on what else is in the
micro-batch.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_models import DECODERS, FAMILIES, SENTENCES

from trainer.batch import Texts
from trainer.kernels import attention
from trainer.models.dense import DenseEncoder, DenseSettings, build_dense_encoder
from trainer.models.parts.packed import micro_batch
from trainer.models.parts.pooling import pool


def vectors_and_gradient(encoder: DenseEncoder, batches):
    """Vectors of all texts, batch by batch, and the gradient of one fixed function of them."""
    encoder.zero_grad()
    found = torch.cat([encoder(batch) for batch in batches])
    weights = torch.linspace(-1, 1, found.numel(), dtype=found.dtype).view_as(found)
    (found * weights).sum().backward()
    return found.detach(), torch.cat(
        [
            parameter.grad.flatten()
            for parameter in encoder.parameters()
            if parameter.grad is not None
        ]
    )


def double(toy_folder, family, pooling):
    encoder = build_dense_encoder(
        DenseSettings(
            backbone=str(toy_folder(family)),
            pooling=pooling,
            lora=None,
            document_prompt="Show ",
        )
    )
    return encoder.double()


@pytest.mark.parametrize("include_prompt", [True, False])
@pytest.mark.parametrize("pooling", ["mean", "cls", "last_token", "weighted_mean"])
@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_no_vector_and_no_gradient(toy_folder, family, pooling, include_prompt):
    encoder = double(toy_folder, family, pooling)
    encoder.contract = encoder.contract.model_copy(update={"include_prompt": include_prompt})
    texts = encoder.tokenize([*SENTENCES, ""], "document")
    assert len(set(texts.lengths.tolist())) >= 4
    alone = [texts.select(torch.tensor([row])) for row in range(len(texts))]
    together, gradient_together = vectors_and_gradient(encoder, [texts])
    apart, gradient_apart = vectors_and_gradient(encoder, alone)
    torch.testing.assert_close(together, apart, atol=1e-10, rtol=0)
    assert gradient_apart.norm() > 0.1
    assert (
        torch.nn.functional.cosine_similarity(gradient_together, gradient_apart, dim=0) > 1 - 1e-10
    )
    torch.testing.assert_close(gradient_together.norm(), gradient_apart.norm(), rtol=1e-10, atol=0)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in DECODERS])
def test_attention_to_other_texts_is_caught(toy_folder, family, monkeypatch):
    """The planted error: attention to padding, or to other texts of the micro-batch. If this did
    not change vectors, the law above would prove nothing.
    """
    encoder = double(toy_folder, family, "cls")
    texts = encoder.tokenize(SENTENCES, "document")
    right = encoder(texts)
    if encoder.is_padded:
        backbone = encoder.backbone.forward
        encoder.backbone.forward = lambda attention_mask, **inputs: backbone(
            attention_mask=torch.ones_like(attention_mask), **inputs
        )
    else:
        packed = attention.packed_attention

        def as_one_text(query, key, value, packing, *rest):
            total = len(packing.positions)
            one_text = replace(
                packing,
                lengths=np.array([total]),
                offsets=torch.tensor([0, total]),
                key_counts=np.array([total]),
                keys=torch.tensor([total]),
            )
            return packed(query, key, value, one_text, *rest)

        monkeypatch.setattr(attention, "packed_attention", as_one_text)
    assert (encoder(texts) - right).abs().max() > 1e-3


@pytest.mark.parametrize("pooling", ["mean", "cls", "last_token", "weighted_mean"])
def test_prompt_is_excluded_and_not_multiplied_by_zero(pooling):
    batch = micro_batch(Texts.of([[1, 2, 3], [1, 2]], [1, 2]), torch.device("cpu"))
    hidden = torch.randn(5, 3)
    is_prompt = torch.tensor([True, False, False, True, False])
    poisoned = hidden.masked_fill(is_prompt[:, None], float("nan"))
    vectors = pool(pooling, hidden, batch, excluded_tokens=1)
    torch.testing.assert_close(pool(pooling, poisoned, batch, excluded_tokens=1), vectors)
    assert vectors.isfinite().all()
