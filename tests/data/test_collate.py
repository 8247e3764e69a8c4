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


def test_documents_are_query_major_the_positive_first():
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


def test_without_negatives_there_are_positives_alone():
    assert collated(ROWS, 0)[1]["document"] == ["here", "now", "hither"]


def test_a_row_with_few_negatives_repeats_its_own():
    assert collated(ROWS[:1], 5)[1]["document"] == [
        "here",
        "there",
        "nowhere",
        "there",
        "nowhere",
        "there",
    ]


def test_a_row_with_none_is_named():
    with pytest.raises(
        BadData,
        match=(
            r"b\.jsonl:9: this row has no negative, but data\.negatives_per_query is"
            r" 1.*data\.negatives_per_query=0"
        ),
    ):
        collated([*ROWS, Row("why", "so", source="b.jsonl:9")], 1)


class TestKnownPositives:
    def test_of_a_query_with_several_are_all_there_also_those_outside_the_batch(self):
        batch, _ = collated(ROWS[:2], 0, known_positives(Rows.of(ROWS)))
        assert set(batch.known_positives[0].tolist()) == {identity("here"), identity("hither")}
        assert set(batch.known_positives[1].tolist()) == {identity("now"), -1}

    def test_of_a_query_nothing_is_known_of_is_its_own(self):
        batch, _ = collated(ROWS[1:2], 0, {})
        assert batch.known_positives.tolist() == [[identity("now")]]

    def test_are_in_an_order_that_does_not_change(self):
        batch, _ = collated(ROWS, 0)
        assert torch.equal(batch.known_positives[0], batch.known_positives[2])


class TestLabels:
    def test_are_one_a_pair(self):
        batch, _ = collated([Row("a", "b", labels=(4.5,)), Row("c", "d", labels=(0.0,))], 0)
        assert batch.labels.tolist() == [[4.5], [0.0]]
        assert batch.labels.dtype == torch.float32

    def test_are_one_a_candidate_where_the_rows_have_them(self):
        rows = [Row("a", "b", ("c", "d"), (0.9, 0.5, 0.1)), Row("e", "f", ("g",), (0.8, 0.3))]
        batch, given = collated(rows, 3)
        assert given["document"] == ["b", "c", "d", "c", "f", "g", "g", "g"]
        assert batch.labels.flatten().tolist() == pytest.approx(
            [0.9, 0.5, 0.1, 0.5, 0.8, 0.3, 0.3, 0.3]
        )
        assert batch.labels.shape == (2, batch.documents_per_query)
        assert collated(rows, 1)[0].labels.flatten().tolist() == pytest.approx([0.9, 0.5, 0.8, 0.3])
        assert collated(rows, 0)[0].labels.flatten().tolist() == pytest.approx([0.9, 0.8])

    def test_of_the_positive_alone_are_none_for_a_batch_with_negatives(self):
        assert collated([Row("a", "b", ("c",), (4.5,))], 1)[0].labels is None

    def test_of_candidates_come_from_the_file(self, tmp_path):
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

    def test_missing_from_one_row_are_missing_from_the_batch(self):
        assert collated([Row("a", "b", labels=(4.5,)), Row("c", "d")], 0)[0].labels is None


def test_with_a_real_tokenizer_roles_keep_their_prompts_and_lengths(toy_folder):
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


def test_identity_is_of_the_whole_text_not_of_what_is_left_after_truncation(toy_folder):
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
