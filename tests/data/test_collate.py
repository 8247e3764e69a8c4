"""Rows to a batch: query-major, the positive first, negatives repeated where a row has few, every
positive of a query known.
"""

import json

import pytest
import torch
from twins import texts_of

from trainer.batch import identity
from trainer.data.collate import collate
from trainer.data.readers.read import read_rows
from trainer.data.rows import Row, Rows, known_positives
from trainer.errors import BadData
from trainer.models.dense import DenseSettings, build_dense_encoder

ROWS = (
    Row("where", "here", ("there", "nowhere"), source="a.jsonl:1"),
    Row("when", "now", ("never",), source="a.jsonl:2"),
    Row("where", "hither", ("then", "thence", "hence"), source="a.jsonl:3"),
)


class Tokenizer:
    """Remembers what it was given; one token a letter."""

    def __init__(self):
        self.given = {}

    def __call__(self, texts, role):
        self.given[role] = list(texts)
        return texts_of(texts)


def collated(rows, negatives, known=None):
    tokenizer = Tokenizer()
    return (
        collate(rows, tokenizer, known_positives(rows) if known is None else known, negatives),
        tokenizer.given,
    )


def test_documents_are_query_major_with_the_positive_first():
    batch, given = collated(ROWS, 2)
    assert given["query"] == ["where", "when", "where"]
    assert given["document"] == [
        "here",
        "there",
        "nowhere",
        "now",
        "never",
        "never",
        "hither",
        "then",
        "thence",
    ]
    assert batch.documents_per_query == 3
    assert batch.documents.identities[::3].tolist() == [
        identity("here"),
        identity("now"),
        identity("hither"),
    ]
    assert batch.sample_ids == ("a.jsonl:1", "a.jsonl:2", "a.jsonl:3")


def test_batch_without_negatives_has_positives_only():
    assert collated(ROWS, 0)[1]["document"] == ["here", "now", "hither"]


def test_row_with_few_negatives_repeats_them():
    assert collated(ROWS[:1], 5)[1]["document"] == [
        "here",
        "there",
        "nowhere",
        "there",
        "nowhere",
        "there",
    ]


def test_row_without_negatives_is_refused_by_name():
    with pytest.raises(
        BadData,
        match=(
            r"b\.jsonl:9: this row has no negative, but data\.negatives_per_query is"
            r" 1.*data\.negatives_per_query=0"
        ),
    ):
        collated([*ROWS, Row("why", "so", source="b.jsonl:9")], 1)


class TestKnownPositives:
    def test_known_positives_include_those_outside_the_batch(self):
        batch, _ = collated(ROWS[:2], 0, known_positives(Rows.of(ROWS)))
        assert set(batch.known_positives[0].tolist()) == {identity("here"), identity("hither")}
        assert set(batch.known_positives[1].tolist()) == {identity("now"), -1}

    def test_positive_of_an_unknown_query_is_its_only_known_one(self):
        batch, _ = collated(ROWS[1:2], 0, {})
        assert batch.known_positives.tolist() == [[identity("now")]]

    def test_known_positives_have_a_fixed_order(self):
        batch, _ = collated(ROWS, 0)
        assert torch.equal(batch.known_positives[0], batch.known_positives[2])


class TestLabels:
    def test_scored_pairs_have_one_label(self):
        batch, _ = collated([Row("a", "b", labels=(4.5,)), Row("c", "d", labels=(0.0,))], 0)
        assert batch.labels.tolist() == [[4.5], [0.0]]
        assert batch.labels.dtype == torch.float32

    def test_scored_candidates_have_one_label_each(self):
        rows = [Row("a", "b", ("c", "d"), (0.9, 0.5, 0.1)), Row("e", "f", ("g",), (0.8, 0.3))]
        batch, given = collated(rows, 3)
        assert given["document"] == ["b", "c", "d", "c", "f", "g", "g", "g"]
        assert batch.labels.flatten().tolist() == pytest.approx(
            [0.9, 0.5, 0.1, 0.5, 0.8, 0.3, 0.3, 0.3]
        )
        assert batch.labels.shape == (2, batch.documents_per_query)
        assert collated(rows, 1)[0].labels.flatten().tolist() == pytest.approx([0.9, 0.5, 0.8, 0.3])
        assert collated(rows, 0)[0].labels.flatten().tolist() == pytest.approx([0.9, 0.8])

    def test_labels_of_positives_only_are_none_with_negatives(self):
        assert collated([Row("a", "b", ("c",), (4.5,))], 1)[0].labels is None

    def test_labels_of_candidates_come_from_the_file(self, tmp_path):
        path = tmp_path / "taught.jsonl"
        lines = [
            {
                "query": "a",
                "positive": "b",
                "negatives": ["c", " ", "b", "d", "e"],
                "scores": [0.9, 0.5, 0.4, 0.3, 0.2, 0.1],
            },
            {"query": "f", "positive": "g", "negatives": ["h", "i"], "scores": [9, 5, 4]},
        ]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        batch, given = collated(list(read_rows(str(path), negatives_per_query=2)), 2)
        assert given["document"] == ["b", "c", "d", "g", "h", "i"]
        assert batch.labels.flatten().tolist() == pytest.approx([0.9, 0.5, 0.2, 9, 5, 4]), (
            "blank and own negatives go with their scores"
        )

    def test_labels_missing_in_one_row_are_missing_in_the_batch(self):
        assert collated([Row("a", "b", labels=(4.5,)), Row("c", "d")], 0)[0].labels is None


def test_roles_have_their_prompts_and_lengths_with_a_real_tokenizer(toy_folder):
    model = DenseSettings(
        backbone=str(toy_folder("bert")),
        query_prompt="show ",
        document_prompt="the ",
        query_max_length_tokens=6,
        document_max_length_tokens=9,
    )
    encoder = build_dense_encoder(model)
    rows = [Row("disk " * 20, "storage " * 20), Row("disk", "disk")]
    batch = collate(rows, encoder.tokenize, known_positives(rows), 0)
    assert batch.queries.lengths.max() == 6
    assert batch.documents.lengths.max() == 9
    assert batch.queries.identities[1] == batch.documents.identities[1], (
        "the same text, whatever the prompt"
    )
    assert (
        batch.queries.tokens[batch.queries.offsets[1] :].tolist()
        != batch.documents.tokens[batch.documents.offsets[1] :].tolist()
    )


def test_identity_is_that_of_the_text_before_truncation(toy_folder):
    """Two documents that are cut to the same tokens are one vector to the model but not one text:
    neither is taken for the other's positive.
    """
    encoder = build_dense_encoder(
        DenseSettings(backbone=str(toy_folder("bert")), document_max_length_tokens=4)
    )
    texts = encoder.tokenize(["disk disk disk end", "disk disk disk other"], "document")
    cut = [texts.select(torch.tensor([row])).tokens.tolist() for row in range(2)]
    assert cut[0] == cut[1]
    assert texts.identities[0] != texts.identities[1]
