"""R22: judgements that point to ids that do not exist end with exit code 2 and their names."""

from pathlib import Path

import pytest

from trainer.data.readers.read import read_rows
from trainer.data.retrieval_set import read_retrieval_set
from trainer.data.summary.summarize import summarize_data
from trainer.errors import BadData

READERS = {
    "rows": lambda folder: read_rows(folder, split="test"),
    "retrieval set": lambda folder: read_retrieval_set(folder, "test"),
    "summary": summarize_data,
}


def make_folder(folder: Path, qrels: str, corpus: str = '{"_id": "d1", "text": "t"}\n') -> str:
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text(corpus)
    (folder / "queries.jsonl").write_text('{"_id": "q1", "text": "ask"}\n')
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + qrels)
    return str(folder)


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
@pytest.mark.parametrize(
    ("qrels", "said"),
    [
        (
            "q1\td1\t1\nq1\td7\t1\nq1\td8\t1\n",
            "qrels/test.tsv:3: the judgements name 2 ids that are not in corpus.jsonl: 'd7', 'd8'",
        ),
        (
            "q1\td1\t1\nq9\td1\t1\n",
            "qrels/test.tsv:3: the judgements name 1 ids that are not in queries.jsonl: 'q9'",
        ),
    ],
    ids=["document", "query"],
)
def test_r22_unknown_ids_are_named(tmp_path: Path, reader, qrels: str, said: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(BadData, match=said) as raised:
        reader(make_folder(tmp_path / "broken", qrels))
    assert raised.value.exit_code == 2


def test_r22_judgements_with_ids_of_an_unreadable_line_are_set_aside(tmp_path: Path) -> None:
    folder = make_folder(
        tmp_path / "torn", "q1\td1\t1\nq1\td2\t1\n", '{"_id": "d1", "text": "t"}\n{"_id": "d2", "te'
    )
    rows = read_rows(folder, split="test", max_bad_rows_ratio=0.5)
    assert [row.positive for row in rows] == ["t"]
    assert rows.report.bad == {
        "not JSON; truncated last line": 1,
        "its query or document could not be read": 1,
    }
