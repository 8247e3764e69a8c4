"""One vector a token: what is scored, how texts are marked and filled up, and that nothing else in
the batch matters.
"""

import json
import string

import pytest
import torch
from toy_models import FAMILIES, SENTENCES
from transformers import AutoModel, AutoTokenizer

from trainer.batch import Texts
from trainer.errors import BadModel
from trainer.models.dense import read_encoder
from trainer.models.families import read_model
from trainer.models.formats.folder import save_encoder
from trainer.models.late_interaction import (
    LateInteractionEncoder,
    LateInteractionSettings,
    build_late_interaction_encoder,
    read_late_encoder,
)
from trainer.models.settings import Lora

TEXTS = ("Delete, a disk.", "", *SENTENCES[2:], "the the the")


def encoder_of(folder, lora=None, late=None, **settings):
    torch.manual_seed(4)
    model = LateInteractionSettings(
        backbone=str(folder),
        lora=lora,
        **(late or {}),
        projection_dimensions=8,
        **settings,
    )
    return build_late_interaction_encoder(model).eval()


def vectors(encoder, texts, role):
    with torch.no_grad():
        return encoder(encoder.tokenize(texts, role))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("role", ["query", "document"])
def test_text_has_the_same_vectors_alone_and_in_a_batch(toy_folder, family, role):
    encoder = encoder_of(
        toy_folder(family), document_max_length_tokens=40, query_max_length_tokens=20
    )
    texts = encoder.tokenize(TEXTS, role)
    together = vectors(encoder, TEXTS, role)
    lengths = texts.lengths.tolist()
    assert len(set(lengths)) > 2 or (role == "query" and encoder.contract.query_expansion)
    for row, length in enumerate(lengths):
        with torch.no_grad():
            alone = encoder(texts.select(torch.tensor([row])))[0]
        torch.testing.assert_close(together[row, :length], alone, atol=2e-6, rtol=0)
        assert not together[row, length:].any()


@pytest.mark.parametrize("attend", [False, True])
@pytest.mark.parametrize("expansion", [False, True])
def test_vectors_equal_the_formula(toy_folder, attend, expansion):
    """Marker behind the first special token, mask tokens up to the length, attention to them or
    not, projection, length 1, no punctuation.
    """
    folder = toy_folder("bert")
    late = {
        "query_marker": "the",
        "document_marker": "a",
        "query_expansion": expansion,
        "attend_to_expansion": attend,
    }
    encoder = encoder_of(
        folder, late=late, query_max_length_tokens=12, query_prompt="", document_prompt=""
    )
    tokenizer, model = (
        AutoTokenizer.from_pretrained(folder),
        AutoModel.from_pretrained(folder, add_pooling_layer=False).eval(),
    )
    for role, marker, width in (("query", "the", 12), ("document", "a", 64)):
        for text in TEXTS:
            ids = tokenizer(text, truncation=True, max_length=width - 1).input_ids
            ids = [ids[0], tokenizer.convert_tokens_to_ids(marker), *ids[1:]]
            attention = [1] * len(ids)
            if role == "query" and expansion:
                attention += [int(attend)] * (width - len(ids))
                ids += [tokenizer.mask_token_id] * (width - len(ids))
            with torch.no_grad():
                hidden = model(
                    input_ids=torch.tensor([ids]), attention_mask=torch.tensor([attention])
                ).last_hidden_state[0]
                wanted = torch.nn.functional.normalize(hidden @ encoder.projection.weight.T, dim=-1)
            if role == "document":
                skipped = [
                    tokenizer.convert_ids_to_tokens(token) in string.punctuation for token in ids
                ]
                wanted[torch.tensor(skipped)] = 0
            torch.testing.assert_close(vectors(encoder, [text], role)[0], wanted, atol=2e-6, rtol=0)


def test_punctuation_has_no_vector_in_documents_only(toy_folder):
    encoder = encoder_of(toy_folder("bert"), late={"query_expansion": False})
    assert encoder.contract.skipped_tokens == ("!", ",", ".")
    there = [
        vectors(encoder, ["a , disk !"], role)[0].any(-1).tolist() for role in ("query", "document")
    ]
    assert there[0].count(False) == 0
    assert there[1].count(False) == 2
    everything = encoder_of(toy_folder("bert"), late={"skip_punctuation": False})
    assert vectors(everything, ["a , disk !"], "document").any(-1).all()


def test_unknown_word_is_not_skipped_like_unknown_punctuation(toy_folder):
    encoder = encoder_of(toy_folder("bert"), document_prompt="")
    unknown = encoder.tokenizer.unk_token_id
    texts = encoder.tokenize(["€ ;"], "document")
    assert (texts.tokens == unknown).sum() == 2
    with torch.no_grad():
        assert encoder(texts)[0][texts.tokens == unknown].any(-1).all()


def test_query_that_ends_in_a_mask_token_is_attended(toy_folder):
    encoder = encoder_of(toy_folder("bert"), query_max_length_tokens=16)
    ids = encoder.tokenize(["disk [MASK]"], "query").tokens.tolist()
    mask, end = encoder.tokenizer.mask_token_id, encoder.tokenizer.sep_token_id
    assert ids[ids.index(end) - 1] == mask
    texts = encoder.tokenize(["disk", "disk [MASK]"], "query")
    assert encoder.key_counts(texts).tolist() == [ids.index(end), ids.index(end) + 1]


@pytest.mark.parametrize("lora", [None, Lora(rank=2)])
def test_saved_and_loaded_model_gives_the_same_vectors(toy_folder, tmp_path, lora):
    encoder = encoder_of(
        toy_folder("bert"),
        lora,
        {"query_marker": "the", "attend_to_expansion": True},
        query_max_length_tokens=20,
    )
    for name, parameter in encoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    save_encoder(encoder, tmp_path / "model")
    found = read_model(str(tmp_path / "model"))
    assert isinstance(found, LateInteractionEncoder)
    assert found.contract == encoder.contract
    for role in ("query", "document"):
        torch.testing.assert_close(
            vectors(found, TEXTS, role), vectors(encoder, TEXTS, role), atol=1e-4, rtol=0
        )  # merged: rounded otherwise
        assert (
            vectors(found, TEXTS, role)
            - vectors(encoder_of(toy_folder("bert"), late={"query_marker": "the"}), TEXTS, role)[
                :, :1
            ]
        ).abs().max() > 1e-2


def test_training_continues_from_a_saved_model(toy_folder, tmp_path):
    encoder = encoder_of(
        toy_folder("bert"), late={"query_marker": "the"}, query_max_length_tokens=20
    )
    save_encoder(encoder, tmp_path / "model")
    again = build_late_interaction_encoder(
        LateInteractionSettings(backbone=str(tmp_path / "model"), lora=None)
    ).eval()
    assert again.contract.model_copy(update={"backbone": "bert"}) == encoder.contract
    torch.testing.assert_close(
        vectors(again, TEXTS, "query"), vectors(encoder, TEXTS, "query"), atol=1e-6, rtol=0
    )
    wider = build_late_interaction_encoder(
        LateInteractionSettings(
            backbone=str(tmp_path / "model"), lora=None, projection_dimensions=16
        )
    )
    assert wider.dimensions == 16


def test_families_are_not_mistaken_for_each_other(toy_folder, tmp_path):
    save_encoder(encoder_of(toy_folder("bert")), tmp_path / "late")
    with pytest.raises(BadModel, match="late_interaction"):
        read_encoder(str(tmp_path / "late"))
    with pytest.raises(BadModel, match="without the projection"):
        read_late_encoder(str(toy_folder("bert")))


def test_marker_that_is_no_token_is_refused(toy_folder):
    with pytest.raises(
        BadModel, match=r"query marker '\[Q\]' is no token .* model.late_interaction.query_marker"
    ):
        encoder_of(toy_folder("bert"), late={"query_marker": "[Q]"})


@pytest.mark.parametrize("said", [{}, {"prompts": {}}, None])
def test_checkpoint_with_markers_gets_no_prompts(toy_folder, tmp_path, said):
    """A tokenizer without BERT's unused tokens: a fresh model has prompts there, and one that
    brings markers has not.
    """
    assert encoder_of(toy_folder("roberta")).contract.query_prompt == "query: "
    marked = encoder_of(toy_folder("roberta"), late={"query_marker": "a", "document_marker": "b"})
    assert marked.contract.query_prompt == marked.contract.document_prompt == ""
    save_encoder(marked, tmp_path / "model")
    (tmp_path / "model" / "nearfar.json").unlink()
    settings = tmp_path / "model" / "config_sentence_transformers.json"
    pipeline = json.loads(settings.read_text())
    if said is not None:
        pipeline.pop("prompts", None)
        settings.write_text(json.dumps(pipeline | said))
    contract = read_late_encoder(str(tmp_path / "model")).contract
    assert (contract.query_prompt, contract.document_prompt) == ("", "")
    assert contract.query_marker.strip() == "a"


def test_roles_are_stored_with_the_texts(toy_folder):
    texts = encoder_of(toy_folder("bert")).tokenize(TEXTS, "query")
    assert texts.role == "query"
    assert texts.select(torch.tensor([1])).role == "query"
    assert Texts.of([[1]], [1]).role is None


def test_vectors_are_float32_of_length_1_under_autocast(toy_folder):
    encoder = encoder_of(toy_folder("bert"))
    with torch.autocast("cpu", torch.bfloat16):
        found = vectors(encoder, TEXTS, "document")
    assert found.dtype == torch.float32
    there = found[found.any(-1)]
    torch.testing.assert_close(there.norm(dim=-1), torch.ones(len(there)), atol=1e-6, rtol=0)
