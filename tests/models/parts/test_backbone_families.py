"""Every family of backbones gives the vectors that plain transformers gives for the same text on
its own.
"""

from functools import cache

import pytest
import torch
from toy_models import DECODERS, ENCODERS, FAMILIES, SENTENCES
from transformers import AutoModel, AutoTokenizer

from trainer.errors import BadModel
from trainer.models.dense import DenseSettings, build_dense_encoder, read_encoder
from trainer.models.parts.backbone import longest_input
from trainer.models.parts.lora import linear_layers
from trainer.models.settings import Lora

LINEAR_LAYERS_A_BLOCK = {
    "bert": 6,
    "roberta": 6,
    "xlm-roberta": 6,
    "mpnet": 6,
    "distilbert": 6,
    "modernbert": 4,
    "qwen2": 7,
    "qwen3": 7,
    "llama": 7,
}


@cache
def plain(folder):
    return (
        AutoTokenizer.from_pretrained(folder),
        AutoModel.from_pretrained(folder, attn_implementation="eager").eval(),
    )


def reference(folder, text, pooling):
    """The vector of one text by the book: no padding, no batch, plain transformers, pooling spelled
    out.
    """
    tokenizer, model = plain(folder)
    ids = tokenizer(text)["input_ids"]
    if model.config.model_type in DECODERS and pooling == "last_token":
        ids = [*ids, tokenizer.eos_token_id]
    with torch.no_grad():
        hidden = model(input_ids=torch.tensor([ids])).last_hidden_state[0]
    weights = torch.arange(1.0, len(ids) + 1)
    pooled = {
        "mean": hidden.mean(0),
        "cls": hidden[0],
        "last_token": hidden[-1],
        "weighted_mean": (weights[:, None] * hidden).sum(0) / weights.sum(),
    }[pooling]
    return pooled / pooled.norm()


@pytest.mark.parametrize(
    ("family", "pooling"),
    [
        (family, pooling)
        for family in FAMILIES
        for pooling in ("mean", "cls", "last_token", "weighted_mean")
        # a decoder's first token has seen nothing of the text
        if not (family in DECODERS and pooling == "cls")
    ],
)
def test_vectors_equal_those_of_transformers(toy_folder, family, pooling):
    encoder = build_dense_encoder(
        DenseSettings(backbone=str(toy_folder(family)), pooling=pooling, lora=None)
    ).eval()
    texts = encoder.tokenize(SENTENCES, "document")
    assert len(set(texts.lengths.tolist())) > 1, "texts of one length would not be padded"
    with torch.no_grad():
        vectors = encoder(texts)
    expected = torch.stack([reference(toy_folder(family), text, pooling) for text in SENTENCES])
    torch.testing.assert_close(vectors, expected, atol=1e-5, rtol=0)
    assert (expected @ expected.T).fill_diagonal_(0).max() < 0.999, (
        "vectors that are all alike would prove nothing"
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_are_on_the_linear_layers_of_the_blocks_and_learn(toy_folder, family):
    encoder = build_dense_encoder(
        DenseSettings(backbone=str(toy_folder(family)), lora=Lora(rank=2, alpha=4.0))
    )
    trained = [name for name, parameter in encoder.named_parameters() if parameter.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    assert len(trained) == 2 * 2 * LINEAR_LAYERS_A_BLOCK[family], (
        "A and B for every linear layer of two blocks"
    )
    encoder(encoder.tokenize(SENTENCES, "query"))[:, 0].sum().backward()
    gradients = {
        name: parameter.grad for name, parameter in encoder.named_parameters() if "lora_B" in name
    }
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in gradients.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_of_full_tuning_gets_a_gradient(toy_folder, family):
    """A weight without gradient (an unused pooler) would stop DistributedDataParallel."""
    encoder = build_dense_encoder(DenseSettings(backbone=str(toy_folder(family)), lora=None))
    encoder(encoder.tokenize(SENTENCES, "query"))[:, 0].sum().backward()
    assert [name for name, parameter in encoder.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "mpnet"])
def test_activation_checkpointing_changes_no_gradient(toy_folder, family):
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(1)
        model = DenseSettings(
            backbone=str(toy_folder(family)),
            lora=Lora(rank=2),
            activation_checkpointing=checkpointing,
        )
        encoder = build_dense_encoder(model)
        encoder(encoder.tokenize(SENTENCES, "query"))[:, 0].sum().backward()
        gradients.append(
            torch.cat(
                [
                    parameter.grad.flatten()
                    for parameter in encoder.parameters()
                    if parameter.grad is not None
                ]
            )
        )
    assert gradients[0].norm() > 0
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-6, rtol=1e-5)


def test_architecture_without_activation_checkpointing_is_refused(toy_folder):
    with pytest.raises(
        BadModel,
        match="MPNetModel does not support `model.activation_checkpointing`; set it to false",
    ):
        build_dense_encoder(
            DenseSettings(backbone=str(toy_folder("mpnet")), activation_checkpointing=True)
        )


@pytest.mark.parametrize("family", ENCODERS)
def test_dropout_setting_reaches_the_backbone(toy_folder, family):
    def differs(dropout):
        encoder = build_dense_encoder(
            DenseSettings(backbone=str(toy_folder(family)), dropout=dropout)
        )
        texts = encoder.tokenize(SENTENCES, "query")
        return not torch.equal(encoder(texts), encoder(texts))

    assert not differs(0.0)
    assert differs(0.5)


@pytest.mark.parametrize(
    ("family", "longest"),
    [
        ("bert", 66),
        ("roberta", 64),
        ("xlm-roberta", 64),
        ("mpnet", 64),
        ("modernbert", 66),
        ("llama", 66),
    ],
)
def test_longest_input_has_the_length_of_the_positions(toy_folder, family, longest):
    encoder = read_encoder(str(toy_folder(family)))
    assert longest_input(encoder.backbone) == longest
    ids = torch.full((1, longest), 7)
    assert encoder.backbone(input_ids=ids).last_hidden_state.isfinite().all()


def test_linear_layers_leave_out_embeddings_and_pooler(toy_folder):
    names = linear_layers(AutoModel.from_pretrained(toy_folder("bert")))
    assert len(names) == 12
    assert not [name for name in names if "pooler" in name or "embeddings" in name]
