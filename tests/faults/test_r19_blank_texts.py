"""R19: an empty or blank text is dropped and counted; it never becomes a vector."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from trainer.data.readers.read import read_rows
from trainer.errors import BadData
from trainer.models.dense import DenseSettings, build_dense_encoder
from trainer.retrieval.encoding.encode import encode

BLANK = ["", " ", "\t\n", "\u00a0", "\u200b", "\u3000", "\u2060 \ufeff", None]


def write(path: Path, *records: Mapping[str, object]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


@pytest.mark.parametrize("blank", BLANK, ids=ascii)
def test_r19_blank_rows_are_dropped_and_counted(tmp_path: Path, blank: str | None) -> None:
    good = {"query": "q", "positive": "p"}
    rows = read_rows(
        write(
            tmp_path / "b.jsonl",
            good,
            good | {"query": blank},
            good | {"positive": blank},
            good | {"positive": [blank]},
        )
    )
    assert [(row.query, row.positive) for row in rows] == [("q", "p")]
    assert rows.report.blank_rows_dropped == 3
    assert rows.report.bad_count == 0


def test_r19_blank_negatives_and_further_positives_are_dropped(tmp_path: Path) -> None:
    rows = read_rows(
        write(
            tmp_path / "b.jsonl",
            {"query": "q", "positive": ["p", " "], "negatives": ["n", "", None]},
        )
    )
    assert [(row.positive, row.negatives) for row in rows] == [("p", ("n",))]
    assert rows.report.blank_texts_dropped == 3


def test_r19_data_with_blank_texts_only_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="none of its 2 rows can be used .*2 blank"):
        read_rows(
            write(
                tmp_path / "b.jsonl",
                {"query": "", "positive": "p"},
                {"query": "q", "positive": " "},
            )
        )


@pytest.mark.parametrize("family", ["bert", "roberta", "qwen3"])
def test_r19_blank_text_that_is_encoded_has_a_finite_vector(toy_folder, family: str) -> None:
    encoder = build_dense_encoder(DenseSettings(backbone=str(toy_folder(family)))).eval()
    texts = [text for text in BLANK if text is not None]
    vectors = encode(encoder, texts, "document").rows
    assert len(vectors) == len(texts)
    assert np.isfinite(vectors).all()
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1)
