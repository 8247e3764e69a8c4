"""R24: a text of 5 million characters is cut in bounded memory, and warned of once."""

import json
import logging
from pathlib import Path

import pytest
from peak_memory import peak_memory

from trainer.data.readers.read import read_rows
from trainer.data.readers.report import MAX_TEXT_CHARACTERS
from trainer.data.retrieval_set import read_retrieval_set


def test_r24_very_long_text_is_truncated_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "long.jsonl"
    record = json.dumps({"query": "q", "positive": "word " * 1_000_000})
    path.write_text(f"{record}\n" * 3)
    with caplog.at_level(logging.WARNING), peak_memory() as peak:
        rows = read_rows(str(path))
    assert peak.bytes < 200 * 2**20
    assert {len(row.positive) for row in rows} == {MAX_TEXT_CHARACTERS}
    assert rows.report.truncated_texts == 3
    assert [record.getMessage() for record in caplog.records] == [
        "long.jsonl:1: a text of 5000000 characters was cut to 200000; further cuts are"
        " counted only"
    ]


def test_r24_very_long_documents_of_a_folder_are_truncated(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_text(json.dumps({"_id": "d", "text": "x" * 5_000_000}) + "\n")
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "q"}\n')
    (tmp_path / "qrels" / "test.tsv").write_text("q\td\t1\n")
    assert len(read_retrieval_set(str(tmp_path), "test").documents[0]) == MAX_TEXT_CHARACTERS
    assert len(caplog.records) == 1
