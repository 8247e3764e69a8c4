"""Sparse models: their vectors on every backbone, what is refused, and what is stored."""

import pytest
import torch
from toy_models import ENCODERS, SENTENCES, masked_lm
from transformers import AutoModelForMaskedLM

from trainer.errors import BadModel
from trainer.models.families import read_any, read_model
from trainer.models.formats.folder import save_encoder
from trainer.models.masked_lm import VocabularyHead
from trainer.models.settings import Lora
from trainer.models.sparse import (
    SparseEncoder,
    SparseSettings,
    build_sparse_encoder,
    read_sparse_encoder,
)


def new_encoder(folder, **settings):
    return build_sparse_encoder(SparseSettings(backbone=str(folder), **settings)).eval()


@torch.no_grad()
def vectors_of(encoder):
    return encoder(encoder.tokenize(SENTENCES, "document"))


@pytest.mark.parametrize("family", ENCODERS)
@torch.no_grad()
def test_vectors_equal_the_plain_form(toy_folder, family):
    """The numbers of all tokens and words by transformers, one text at a time."""
    folder = masked_lm(toy_folder(family))
    encoder, plain = new_encoder(folder), AutoModelForMaskedLM.from_pretrained(folder).eval()
    texts = [encoder.tokenize([text], "document") for text in SENTENCES]
    logits = [plain(input_ids=text.tokens[None]).logits[0] for text in texts]
    expected = torch.stack([rows.relu().log1p().amax(0) for rows in logits])
    assert 0.02 < (expected > 0).float().mean() < 0.9
    torch.testing.assert_close(vectors_of(encoder), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["qwen3", "bert"])
def test_backbone_without_a_head_is_refused(toy_folder, family):
    with pytest.raises(BadModel, match=r"masked.language.model.*give a masked language model"):
        new_encoder(toy_folder(family))


def test_adapter_around_the_head_is_refused(toy_folder):
    folder = masked_lm(toy_folder("distilbert"))
    with pytest.raises(BadModel, match="target_modules` names the output layer"):
        new_encoder(folder, lora=Lora(target_modules=("vocab_projector",)))


def test_four_bits_are_refused(toy_folder):
    with pytest.raises(BadModel, match="not available for sparse models"):
        new_encoder(masked_lm(toy_folder("bert")), lora=Lora(quantize_4bit=True))


@pytest.mark.parametrize("lora", [None, Lora(rank=4)], ids=["full", "lora"])
def test_stored_model_gives_the_same_vectors(toy_folder, tmp_path, lora):
    settings = {"query_prompt": "show ", "query_max_length_tokens": 9}
    folder = masked_lm(toy_folder("bert"))
    encoder = new_encoder(folder, lora=lora, document_max_length_tokens=20, **settings)
    before = vectors_of(encoder)
    for parameter in encoder.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    after = vectors_of(encoder)
    assert (after - before).abs().max() > 0.1
    save_encoder(encoder, tmp_path / "model")
    stored = read_model(str(tmp_path / "model"))
    assert isinstance(stored, SparseEncoder)
    assert stored.contract == encoder.contract
    torch.testing.assert_close(vectors_of(stored), after, atol=1e-4, rtol=1e-4)
    again = new_encoder(tmp_path / "model", lora=None)
    torch.testing.assert_close(vectors_of(again), after, atol=1e-4, rtol=1e-4)
    assert again.contract.query_prompt == "show "
    if lora is not None:
        assert (tmp_path / "model" / "adapter" / "adapter_model.safetensors").is_file()


def test_tied_weights_stay_tied_in_a_stored_model(toy_folder, tmp_path):
    encoder = new_encoder(masked_lm(toy_folder("bert")), lora=None)
    save_encoder(encoder, tmp_path / "model")
    backbone = read_any(str(tmp_path / "model")).backbone
    head = backbone.get_output_embeddings()
    assert isinstance(head, VocabularyHead)
    assert head.weight is backbone.get_input_embeddings().weight


def test_masked_language_model_alone_is_no_sparse_model(toy_folder):
    with pytest.raises(BadModel, match="is not a sparse model; train one"):
        read_sparse_encoder(str(masked_lm(toy_folder("bert"))))
