"""Law 3: padding changes nothing: neither a vector nor a gradient depends on what else is in the
micro-batch.
"""

import pytest
import torch
from toy_models import DECODERS, FAMILIES, SENTENCES

from trainer.models.dense import DenseEncoder, DenseSettings, build_dense_encoder


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
def test_ignored_mask_is_caught(toy_folder, family):
    """The planted error: attention to padding. If this did not change vectors, the law above would
    prove nothing.
    """
    encoder = double(toy_folder, family, "cls")
    texts = encoder.tokenize(SENTENCES, "document")
    right = encoder(texts)
    backbone = encoder.backbone.forward
    encoder.backbone.forward = lambda input_ids, attention_mask: backbone(
        input_ids, torch.ones_like(attention_mask)
    )
    assert (encoder(texts) - right).abs().max() > 1e-3


@pytest.mark.parametrize("pooling", ["mean", "cls", "last_token", "weighted_mean"])
def test_padding_is_excluded_and_not_multiplied_by_zero(pooling):
    from trainer.models.parts.pooling import pool

    hidden, real = torch.randn(2, 4, 3), torch.tensor([[True] * 4, [True, True, False, False]])
    poisoned = hidden.masked_fill(~real[..., None], float("nan"))
    torch.testing.assert_close(pool(pooling, poisoned, real), pool(pooling, hidden, real))
    assert pool(pooling, poisoned, real, excluded_tokens=1).isfinite().all()
