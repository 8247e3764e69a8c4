"""R26: tokenizer and model that do not match, a missing pad token, left padding, RoBERTa's position
offset.
"""

import json
import shutil

import pytest
import torch
from tokenizers import Tokenizer
from toy_models import DECODERS, SENTENCES
from transformers import AutoModel, AutoTokenizer

from trainer.errors import BadModel
from trainer.models.dense import DenseSettings, build_dense_encoder, read_encoder
from trainer.models.formats.folder import save_encoder
from trainer.models.late_interaction import LateInteractionSettings, build_late_interaction_encoder

LONG = ["disk " * 200]


@pytest.fixture
def copy(toy_folder, tmp_path):
    return lambda family: shutil.copytree(toy_folder(family), tmp_path / family)


def test_tokenizer_with_ids_beyond_the_embeddings_is_refused(copy, toy_folder):
    folder = copy("bert")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(toy_folder("roberta") / name, folder / name)
    with pytest.raises(
        BadModel,
        match=(
            r"the tokenizer knows \d+ tokens, the model has embeddings for \d+; they do not belong"
            r" together"
        ),
    ):
        build_dense_encoder(DenseSettings(backbone=str(folder)))


def test_pad_token_of_minus_one_means_that_there_is_none(copy, toy_folder):
    folder = copy("bert")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"pad_token_id": -1}))
    vectors = [
        encoder(encoder.tokenize(SENTENCES, "query"))
        for encoder in (read_encoder(str(folder)), read_encoder(str(toy_folder("bert"))))
    ]
    torch.testing.assert_close(*vectors)


def test_tokenizer_exchanged_after_training_is_refused(toy_folder, tmp_path):
    save_encoder(
        build_dense_encoder(DenseSettings(backbone=str(toy_folder("bert")))), tmp_path / "model"
    )
    tokenizer = json.loads((tmp_path / "model" / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    one, other = [token for token in vocabulary if token.isalpha()][:2]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    (tmp_path / "model" / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(
        BadModel, match=r"nearfar\.json says tokenizer_fingerprint = .* a file was exchanged"
    ):
        read_encoder(str(tmp_path / "model"))


def test_model_without_a_tokenizer_is_refused(copy):
    folder = copy("bert")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
        with pytest.raises(BadModel, match="has no tokenizer: no tokenizer.json and no vocabulary"):
            build_dense_encoder(DenseSettings(backbone=str(folder)))


@pytest.mark.parametrize("family", DECODERS)
def test_missing_pad_token_is_replaced_and_changes_nothing(toy_folder, tmp_path, family):
    if family != "qwen2":  # its tokenizer class brings one
        assert AutoTokenizer.from_pretrained(toy_folder(family)).pad_token is None
    encoder = build_dense_encoder(DenseSettings(backbone=str(toy_folder(family)))).eval()
    texts = encoder.tokenize(SENTENCES, "query")
    alone = torch.cat([encoder(texts.select(torch.tensor([row]))) for row in range(len(texts))])
    torch.testing.assert_close(encoder(texts), alone, atol=1e-6, rtol=0)
    save_encoder(encoder, tmp_path / "model")
    assert AutoTokenizer.from_pretrained(tmp_path / "model").pad_token is not None


def test_tokenizer_without_pad_and_end_token_is_refused(copy):
    folder = copy("llama")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(
        json.dumps({key: value for key, value in settings.items() if key != "eos_token"})
    )
    with pytest.raises(BadModel, match="neither a pad nor an end-of-text token"):
        build_dense_encoder(DenseSettings(backbone=str(folder)))


@pytest.mark.parametrize("family", DECODERS)
def test_last_token_is_pooled_although_the_tokenizer_pads_on_the_left(toy_folder, family):
    assert AutoTokenizer.from_pretrained(toy_folder(family)).padding_side == "left"
    encoder = build_dense_encoder(DenseSettings(backbone=str(toy_folder(family)))).eval()
    assert encoder.contract.pooling == "last_token"
    texts = encoder.tokenize(SENTENCES, "query")
    ids, real = texts.pad()
    end = encoder.tokenizer.eos_token_id
    assert [row[mask][-1].item() for row, mask in zip(ids, real, strict=True)] == [end] * len(
        SENTENCES
    )
    model = AutoModel.from_pretrained(toy_folder(family))
    for row, vector in enumerate(encoder(texts)):
        hidden = model(input_ids=ids[row : row + 1, real[row]]).last_hidden_state[0, -1]
        torch.testing.assert_close(vector, hidden / hidden.norm(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", DECODERS)
def test_end_token_survives_saving_and_truncation(toy_folder, tmp_path, family):
    encoder = build_dense_encoder(
        DenseSettings(backbone=str(toy_folder(family)), query_max_length_tokens=7)
    )
    save_encoder(encoder, tmp_path / "model")
    for some in (encoder, read_encoder(str(tmp_path / "model"))):
        tokens = some.tokenize([*LONG, "disk", ""], "query")
        ends = [tokens.tokens[stop - 1].item() for stop in tokens.offsets[1:].tolist()]
        assert ends == [some.tokenizer.eos_token_id] * 3
        assert tokens.lengths[0] == 7
        assert (tokens.tokens == some.tokenizer.eos_token_id).sum() == 3, "one end, not two"


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta", "mpnet"])
def test_positions_after_the_pad_row_limit_the_length(copy, family):
    folder = copy(family)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"model_max_length": 512}))
    encoder = build_dense_encoder(DenseSettings(backbone=str(folder))).eval()
    assert encoder.contract.query_max_length_tokens == 64
    texts = encoder.tokenize(LONG, "query")
    assert texts.lengths.tolist() == [64]
    assert encoder(texts).isfinite().all()
    with pytest.raises(
        BadModel, match="65 tokens was requested, but the backbone has only 64 positions"
    ):
        build_dense_encoder(DenseSettings(backbone=str(folder), query_max_length_tokens=65))


def test_length_without_space_for_a_text_is_refused(toy_folder):
    bert = str(toy_folder("bert"))
    with pytest.raises(
        BadModel,
        match=(
            "a maximum length of 2 tokens leaves no room for a text beside 2 special tokens; allow"
            " more"
        ),
    ):
        build_dense_encoder(DenseSettings(backbone=bert, query_max_length_tokens=2))
    with pytest.raises(
        BadModel,
        match="of 4 tokens leaves no room for a text beside 2 special tokens and a prompt of 2",
    ):
        build_dense_encoder(
            DenseSettings(backbone=bert, query_max_length_tokens=4, query_prompt="disk disk")
        )
    assert build_dense_encoder(
        DenseSettings(backbone=bert, query_max_length_tokens=5, query_prompt="disk disk")
    ).tokenize(["disk"], "query").lengths.tolist() == [5]


@pytest.mark.parametrize(
    ("prompt", "taken"),
    [
        (None, "2 special tokens and 1 marker"),
        ("disk", "2 special tokens and 1 marker and a prompt of 1"),
    ],
)
def test_length_used_up_by_markers_and_prompts_is_refused(prompt, taken, toy_folder):
    length = 3 + (prompt is not None)
    for given in (2, length):
        with pytest.raises(
            BadModel,
            match=(
                f"a maximum length of {given} tokens leaves no room for a text beside {taken};"
                " allow more"
            ),
        ):
            build_late_interaction_encoder(
                LateInteractionSettings(
                    backbone=str(toy_folder("bert")),
                    query_max_length_tokens=given,
                    query_prompt=prompt,
                    query_marker="[MASK]",
                )
            )
    model = LateInteractionSettings(
        backbone=str(toy_folder("bert")),
        query_max_length_tokens=length + 1,
        query_prompt=prompt,
        query_marker="[MASK]",
    )
    assert build_late_interaction_encoder(model).tokenize(["disk"], "query").lengths.tolist() == [
        length + 1
    ]


def test_padding_and_truncation_in_a_tokenizer_file_are_ignored(copy):
    folder = copy("bert")
    before = build_dense_encoder(DenseSettings(backbone=str(folder))).tokenize(
        [*SENTENCES, *LONG], "query"
    )
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=40)
    tokenizer.save(str(folder / "tokenizer.json"))
    after = build_dense_encoder(DenseSettings(backbone=str(folder))).tokenize(
        [*SENTENCES, *LONG], "query"
    )
    assert torch.equal(before.tokens, after.tokens)
