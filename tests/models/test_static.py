"""A static model: made from a transformer, saved, and loaded by sentence-transformers with the same
vectors; and its own models read here.
"""

import json

import numpy as np
import pytest
import torch
from encoded import encode
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from toy_models import SENTENCES, word_pieces

from trainer.errors import BadModel
from trainer.models.dense import DenseSettings, build_dense_encoder, read_encoder
from trainer.models.formats.folder import save_encoder
from trainer.models.static import table_of
from trainer.models.static_student import StaticSettings, build_static_encoder, vocabulary_vectors

TEXTS = [*SENTENCES, "disk", "unheard-of words, and an emoji 🙂", "a " * 600]


def model_of(folder, **settings):
    return StaticSettings(backbone=str(folder), dimensions=12, **settings)


@pytest.mark.parametrize("family", ["bert", "roberta", "qwen2"])
@pytest.mark.parametrize("start", ["vocabulary", "token_embeddings"])
def test_static_model_loads_in_other_libraries_with_the_same_vectors(
    family, start, toy_folder, tmp_path
):
    encoder = build_static_encoder(model_of(toy_folder(family), start=start)).eval()
    save_encoder(encoder, tmp_path / "model")
    vectors = encode(encoder, TEXTS, "document")
    assert vectors.shape == (len(TEXTS), 12)
    assert (
        np.abs(
            SentenceTransformer(str(tmp_path / "model"), device="cpu").encode(TEXTS) - vectors
        ).max()
        < 1e-5
    )
    again = read_encoder(str(tmp_path / "model"))
    assert np.abs(encode(again, TEXTS, "document") - vectors).max() < 1e-6
    assert again.contract == encoder.contract
    assert np.abs(vectors[0] - vectors[1]).max() > 0.1


def test_vector_of_a_text_is_the_mean_of_its_tokens(toy_folder):
    encoder = build_static_encoder(model_of(toy_folder("bert"))).eval()
    ids = encoder.tokenize(["delete a disk"], "query").tokens
    assert not set(ids.tolist()) & set(encoder.tokenizer.all_special_ids), "no special token counts"
    mean = encoder.backbone.embedding.weight[ids].mean(0)
    found = torch.from_numpy(encode(encoder, ["delete a disk"], "query")[0])
    assert torch.allclose(found, mean / mean.norm(), atol=1e-6)


def test_vocabulary_is_encoded_as_texts_of_one_token(toy_folder):
    source = read_encoder(str(toy_folder("bert")))
    vectors = vocabulary_vectors(source)
    token = source.tokenizer.convert_tokens_to_ids("a")
    assert np.abs(vectors[token].numpy() - encode(source, ["a"], "document")[0]).max() < 1e-6
    assert len(vectors) == len(source.tokenizer)


def test_table_keeps_the_principal_components():
    vectors = torch.randn(50, 3) @ torch.randn(3, 20)
    table = table_of(vectors, 3, pad_token_id=0).embedding.weight.detach()
    share = 1 / torch.arange(2.0, 52.0)
    weights = (1e-4 / (1e-4 + share / share.sum()))[:, None]
    centred = vectors - vectors.mean(0)
    assert torch.allclose(
        ((table / weights) @ (table / weights).T)[1:, 1:], (centred @ centred.T)[1:, 1:], atol=1e-3
    )
    assert not table[0].any()


def test_static_model_is_trained_by_any_objective(toy_folder):
    encoder = build_static_encoder(model_of(toy_folder("bert")))
    names = [name for name, parameter in encoder.named_parameters() if parameter.requires_grad]
    assert names == ["backbone.embedding.weight"]
    encoder(encoder.tokenize(SENTENCES, "query")).sum().backward()
    assert encoder.backbone.embedding.weight.grad.norm() > 1e-3


def test_static_model_of_sentence_transformers_is_read_and_trained(tmp_path):
    theirs = SentenceTransformer(
        modules=[StaticEmbedding(word_pieces(), embedding_dim=10)], device="cpu"
    )
    theirs.save(str(tmp_path / "model"))
    texts = list(SENTENCES)
    assert (
        np.abs(
            encode(read_encoder(str(tmp_path / "model")), texts, "query") - theirs.encode(texts)
        ).max()
        < 1e-5
    )
    trained = build_dense_encoder(DenseSettings(backbone=str(tmp_path / "model"), lora=None))
    assert trained.contract.normalize, "compared by cosine, so trained with it"


def test_truncation_of_an_older_file_has_no_direction(tmp_path):
    theirs = SentenceTransformer(
        modules=[StaticEmbedding(word_pieces(), embedding_dim=10)], device="cpu"
    )
    theirs.save(str(tmp_path / "model"))
    (path,) = (tmp_path / "model").rglob("tokenizer.json")
    truncation = {"max_length": 3, "strategy": "LongestFirst", "stride": 0}
    content = json.loads(path.read_text(encoding="utf-8")) | {"truncation": truncation}
    path.write_text(json.dumps(content), encoding="utf-8")
    assert read_encoder(str(tmp_path / "model")).contract.query_max_length_tokens == 3


def test_texts_are_cut_where_the_tokenizer_file_says(tmp_path):
    tokenizer = word_pieces()
    tokenizer.backend_tokenizer.enable_truncation(3)
    theirs = SentenceTransformer(
        modules=[StaticEmbedding(tokenizer.backend_tokenizer, embedding_dim=10)], device="cpu"
    )
    theirs.save(str(tmp_path / "theirs"))
    ours = read_encoder(str(tmp_path / "theirs"))
    save_encoder(ours, tmp_path / "ours")
    again = SentenceTransformer(str(tmp_path / "ours"), device="cpu")
    expected = theirs.encode(TEXTS)
    assert ours.contract.document_max_length_tokens == 3
    assert np.abs(encode(ours, TEXTS, "document") - expected).max() < 1e-5
    assert np.abs(again.encode(TEXTS) - expected).max() < 1e-5
    with pytest.raises(BadModel, match="at the 3 tokens that its tokenizer"):
        build_dense_encoder(
            DenseSettings(
                backbone=str(tmp_path / "ours"), lora=None, document_max_length_tokens=100
            )
        )


class TestRefused:
    def test_more_dimensions_than_exist_are_refused(self, toy_folder):
        model = StaticSettings(backbone=str(toy_folder("bert")), dimensions=64)
        with pytest.raises(BadModel, match="have only 32 dimensions"):
            build_static_encoder(model)

    def test_static_model_of_a_static_model_is_refused(self, toy_folder, tmp_path):
        save_encoder(build_static_encoder(model_of(toy_folder("bert"))), tmp_path / "model")
        with pytest.raises(BadModel, match="is a static model already"):
            build_static_encoder(model_of(tmp_path / "model"))

    def test_folder_with_other_weights_is_refused(self, toy_folder, tmp_path):
        from safetensors.torch import save_file

        save_encoder(build_static_encoder(model_of(toy_folder("bert"))), tmp_path / "model")
        save_file({"other": torch.ones(2, 2)}, tmp_path / "model" / "model.safetensors")
        with pytest.raises(BadModel, match=r"one matrix named embedding\.weight is read"):
            read_encoder(str(tmp_path / "model"))
