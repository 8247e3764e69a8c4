"""Stanford's ColBERT checkpoints: read with the vectors and scores of a plain reference, which
follows their code line by line.

Their tokenizers put the marker behind [CLS] and fill queries up with [MASK]; documents lose
punctuation after the projection; a masked token of a document scores -9999 (ColBERT 0.2.22:
query_tokenization.py, doc_tokenization.py, colbert.py).
"""

import json
import string
from pathlib import Path

import numpy as np
import pytest
import torch
from late_interaction_toys import (
    DOCUMENT_LENGTH,
    QUERY_LENGTH,
    TEXTS,
    Vectors,
    assert_same_vectors,
    maxsim_scores,
    new_encoder,
    scored_vectors,
    write_stanford_metadata,
)
from safetensors.torch import load_file, save_file
from sentence_transformers import MultiVectorEncoder
from transformers import AutoTokenizer, BertConfig, BertModel

from trainer.errors import BadModel
from trainer.models.formats.folder import save_encoder
from trainer.models.late_interaction import read_late_encoder

METADATA = {
    "as it comes": {},
    "mask tokens attended": {"attend_to_mask_tokens": True},
    "punctuation scored": {"mask_punctuation": False},
    "other lengths": {"query_maxlen": 9, "doc_maxlen": 14},
    "other markers": {"query_token_id": "[unused1]", "doc_token_id": "[unused0]"},
}


@torch.no_grad()
def reference(folder: Path, role: str, settings: dict) -> Vectors:
    """The vectors of `TEXTS` that Stanford's code makes, one text at a time."""
    weights = load_file(folder / "model.safetensors")
    model = BertModel(BertConfig.from_pretrained(folder)).eval()
    model.load_state_dict(
        {
            name.removeprefix("bert."): value
            for name, value in weights.items()
            if name.startswith("bert.")
        }
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    query = role == "query"
    length = settings["query_maxlen" if query else "doc_maxlen"]
    marker = tokenizer.convert_tokens_to_ids(
        settings["query_token_id" if query else "doc_token_id"]
    )
    punctuation = [
        tokenizer.encode(sign, add_special_tokens=False)[0] for sign in string.punctuation
    ]
    found = []
    for text in TEXTS:
        words = tokenizer.encode(text, add_special_tokens=False)[: length - 3]
        ids = [tokenizer.cls_token_id, marker, *words, tokenizer.sep_token_id]
        attended = [1] * len(ids)
        if query:
            attended += [int(settings["attend_to_mask_tokens"])] * (length - len(ids))
            ids += [tokenizer.mask_token_id] * (length - len(ids))
        hidden = model(torch.tensor([ids]), attention_mask=torch.tensor([attended]))[0][0]
        vectors = torch.nn.functional.normalize(hidden @ weights["linear.weight"].T, dim=1).numpy()
        kept = [
            query or not settings["mask_punctuation"] or token not in punctuation for token in ids
        ]
        found.append(vectors[kept])
    return found


@pytest.mark.parametrize("how", METADATA)
def test_vectors_and_scores_equal_those_of_the_reference(stanford_folder, tmp_path, how):
    write_stanford_metadata(stanford_folder, **METADATA[how])
    settings = json.loads((stanford_folder / "artifact.metadata").read_text())
    queries, documents = (
        reference(stanford_folder, role, settings) for role in ("query", "document")
    )
    encoder = read_late_encoder(str(stanford_folder))
    for again in (False, True):
        if again:
            save_encoder(encoder, tmp_path / "model")
            encoder = read_late_encoder(str(tmp_path / "model"))
        assert_same_vectors(scored_vectors(encoder, TEXTS, "query"), queries)
        assert_same_vectors(scored_vectors(encoder, TEXTS, "document"), documents)
        scores = [
            [(query @ document.T).max(1).sum() for document in documents] for query in queries
        ]
        np.testing.assert_allclose(
            maxsim_scores(encoder, TEXTS, TEXTS), scores, atol=1e-4, rtol=1e-5
        )


def test_every_setting_changes_the_result_of_the_reference(stanford_folder):
    plain = json.loads((stanford_folder / "artifact.metadata").read_text())
    before = [
        *reference(stanford_folder, "query", plain),
        *reference(stanford_folder, "document", plain),
    ]
    for how, change in METADATA.items():
        after = [
            *reference(stanford_folder, "query", plain | change),
            *reference(stanford_folder, "document", plain | change),
        ]
        equal = all(
            one.shape == other.shape and np.abs(one - other).max() < 1e-3
            for one, other in zip(before, after, strict=True)
        )
        assert equal == (how == "as it comes"), how


def test_checkpoint_without_metadata_has_the_defaults_of_colbert(stanford_folder):
    (stanford_folder / "artifact.metadata").unlink()
    encoder = read_late_encoder(str(stanford_folder))
    assert (encoder.contract.query_marker, encoder.contract.document_marker) == (
        "[unused0]",
        "[unused1]",
    )
    assert encoder.contract.query_max_length_tokens == 32
    defaults = {
        "query_token_id": "[unused0]",
        "doc_token_id": "[unused1]",
        "query_maxlen": 32,
        "attend_to_mask_tokens": False,
    }
    assert_same_vectors(
        scored_vectors(encoder, TEXTS, "query"), reference(stanford_folder, "query", defaults)
    )


def test_sentence_transformers_reads_the_checkpoint_the_same_way(stanford_folder):
    encoder, theirs = (
        read_late_encoder(str(stanford_folder)),
        MultiVectorEncoder(str(stanford_folder), device="cpu"),
    )
    assert_same_vectors(
        scored_vectors(encoder, TEXTS, "query"),
        [one.numpy() for one in theirs.encode_query(list(TEXTS))],
    )
    assert_same_vectors(
        scored_vectors(encoder, TEXTS, "document"),
        [one.numpy() for one in theirs.encode_document(list(TEXTS))],
    )


def test_training_continues_from_the_checkpoint(stanford_folder):
    nothing_said = {
        "projection_dimensions": None,
        "query_max_length_tokens": None,
        "document_max_length_tokens": None,
    }
    encoder = new_encoder(stanford_folder, **nothing_said)
    assert encoder.training
    assert (
        encoder.contract.query_max_length_tokens,
        encoder.contract.document_max_length_tokens,
    ) == (QUERY_LENGTH, DOCUMENT_LENGTH)
    torch.testing.assert_close(
        encoder.projection.weight, load_file(stanford_folder / "model.safetensors")["linear.weight"]
    )


def test_weights_without_a_projection_are_refused(stanford_folder):
    weights = load_file(stanford_folder / "model.safetensors")
    del weights["linear.weight"]
    save_file(weights, stanford_folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadModel, match=r"no linear\.weight"):
        read_late_encoder(str(stanford_folder))
