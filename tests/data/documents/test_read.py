"""Documents of folders, files and tables: what is read, set aside and refused."""

import json
from pathlib import Path

import pytest

from trainer.data.documents.document import KnownPair, SourceDocument
from trainer.data.documents.read import read_documents
from trainer.data.readers.report import ReadReport
from trainer.errors import BadData, TooManyBadRows


def read(
    *sources: Path, columns: dict[str, str] | None = None
) -> tuple[list[SourceDocument], list[ReadReport]]:
    return read_documents([str(source) for source in sources], columns or {}, 0.001)


def write_lines(path: Path, *records: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def pairs_of(documents: list[SourceDocument]) -> list[KnownPair]:
    return [pair for document in documents for pair in document.pairs]


def test_files_of_a_folder_are_read_and_others_named(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / "b" / "x.md").write_text("# B\n\nText of b.\n")
    (tmp_path / "a.txt").write_bytes("Résumé\r\n\r\nText of a.".encode("utf-16"))
    (tmp_path / "latin.html").write_bytes(b'<meta charset="latin-1"><p>caf\xe9')
    (tmp_path / "bad.md").write_bytes(b"caf\xe9")
    (tmp_path / "zero.rst").write_bytes(b"a\0b")
    (tmp_path / "old.py").write_text("print 1\n")
    (tmp_path / "blank.md").write_text("  \n")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    (tmp_path / ".git" / "y.md").write_text("never")
    (tmp_path / "out.md").symlink_to("/etc/hostname")
    documents, [report] = read(tmp_path)
    assert [document.name for document in documents] == ["a.txt", "b/x.md", "latin.html"]
    assert documents[0].sections[0].headings == ("Résumé",)
    assert documents[2].sections[0].paragraphs[0].text == "café"
    assert (report.rows_read, report.rows_kept, report.blank_rows_dropped) == (8, 3, 1)
    assert {bad.source: bad.reason for bad in report.bad_rows} == {
        "bad.md": "not UTF-8",
        "zero.rst": "NUL byte (not a text)",
        "old.py": "not Python 3",
        "out.md": "a link that leads out of the folder",
    }
    assert report.notes == ["files of other types, not read: 1 .png"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("bad.md", b"caf\xe9", "bad.md cannot be read: not UTF-8: byte 0xe9 at byte 3"),
        ("page.html", b'<meta charset="klingon">x', "unknown encoding: klingon"),
        ("blank.txt", b" \n", r"no document has any usable text \(.*1 blank\)"),
        ("scan.pdf", b"%PDF", "a suffix that is not known; known are .md"),
        ("none.jsonl", b'{"a": "b"}\n', "no column for a text, an answer or a thread"),
        ("ids.jsonl", b'{"id": 1, "betreff": "b"}\n', "--column text=betreff"),
        ("pairs.jsonl", b'{"query": "a", "positive": "b"}\n', "`nearfar data split` splits them"),
        ("empty.csv", b"title,text\n,\n", r"no document has any usable text"),
    ],
)
def test_unusable_file_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadData, match=message):
        read(tmp_path / name)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"reply": "text"}, "no role 'reply' for a column of documents; roles are id, title"),
        ({"title": "head"}, "no source has a column 'head' for the title; there is 'text', 'x'"),
    ],
)
def test_unknown_column_is_refused(tmp_path: Path, columns: dict[str, str], message: str) -> None:
    path = write_lines(tmp_path / "docs.jsonl", {"text": "Fine.", "x": "y"})
    with pytest.raises(BadData, match=message):
        read(path, columns=columns)


def test_missing_source_is_refused_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "documents").mkdir()
    with pytest.raises(BadData, match="does not exist; did you mean .*documents"):
        read(tmp_path / "document")


def test_corpus_of_a_beir_folder_is_read_without_its_queries(tmp_path: Path) -> None:
    write_lines(tmp_path / "corpus.jsonl", {"_id": "d1", "title": "Disks", "text": "Attach one."})
    write_lines(tmp_path / "queries.jsonl", {"_id": "q1", "text": "never"})
    [document], _ = read(tmp_path)
    assert (document.name, document.sections[0].headings) == ("d1", ("Disks",))
    assert [part.text for part in document.sections[0].paragraphs] == ["Attach one."]


def test_tickets_and_chats_give_their_question_and_answer(tmp_path: Path) -> None:
    tickets = tmp_path / "tickets.csv"
    tickets.write_text(
        "ticket_id,Subject,solved_by,team\n7,Cannot log in,Reset the password.,x\n8,Slow,,x\n"
    )
    chat = [
        {"role": "user", "content": "Where is my invoice?"},
        {"role": "agent", "content": "Under Billing."},
        {"role": "user", "content": "Thanks!"},
        {"role": "agent", "content": "Choose a month."},
    ]
    chats = write_lines(tmp_path / "chats.jsonl", {"messages": chat}, {"messages": ["a b?", "c"]})
    documents, reports = read(tickets, chats, columns={"answer": "solved_by"})
    assert pairs_of(documents)[:1] == [
        KnownPair("resolution", "Cannot log in", "Reset the password.")
    ]
    assert documents[0].name == "tickets.csv/7"
    assert reports[0].ignored_columns == ("team",)
    assert pairs_of(documents)[1:] == [
        KnownPair("thread", "Where is my invoice?", "Under Billing.\n\nChoose a month."),
        KnownPair("thread", "a b?", "c"),
    ]


def test_bad_records_of_a_table_count_against_the_budget(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "docs.jsonl", {"text": "Fine."}, {"text": ["no", "text"]})
    with pytest.raises(TooManyBadRows, match="1 of 2 rows"):
        read(path)
    documents, [report] = read_documents([str(path)], {}, 0.5)
    assert len(documents) == 1
    assert report.bad == {"the field 'text' is a list, expected a text": 1}
