"""Documents on disk: ids are read without the rest, and are those of the documents."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.readers.corpus import Document
from trainer.errors import BadFolder
from trainer.retrieval.indexes import stored_documents
from trainer.retrieval.indexes.stored_documents import StoredDocuments, write_documents


@pytest.mark.parametrize("at_once", [1, 100, 1000])
def test_ids_do_not_depend_on_the_block_size(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(stored_documents, "_BYTES_AT_ONCE", at_once)
    ids = [f"{number:0{number % 9}}" for number in range(200)]
    stored = write_documents(
        (Document(id, "", "words " * (number % 17)) for number, id in enumerate(ids)),
        tmp_path / "d",
        tmp_path / "o.npy",
    )
    assert list(stored.ids()) == ids


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.text(), st.text(), st.text()), min_size=1, max_size=20))
def test_ids_equal_those_of_the_documents(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("documents")
    stored = write_documents(
        (Document(*each) for each in texts), folder / "documents.jsonl", folder / "offsets.npy"
    )
    assert list(stored.ids()) == [document.id for document in stored] == [id for id, _, _ in texts]


def of_lines(folder, *lines):
    (folder / "documents.jsonl").write_bytes(b"".join(lines))
    return StoredDocuments(folder / "documents.jsonl", np.cumsum([0, *map(len, lines)]))


def test_fields_in_another_order_are_read(tmp_path):
    line = json.dumps({"title": "", "id": "b", "text": "words"}).encode() + b"\n"
    assert list(of_lines(tmp_path, line, line).ids()) == ["b", "b"]


@pytest.mark.parametrize(
    "line",
    [
        b'{"id": 7}\n',
        b'{"id": "cut\n',
        b'{"id": ',
        b"nothing\n",
        b'{"id": "\xff"}\n',
        b'{"id": "b", "title": "", "text": "cu',
        b"",
    ],
)
def test_damaged_line_is_named(tmp_path, line):
    whole = json.dumps({"id": "a", "title": "", "text": "words"}).encode() + b"\n"
    ids = of_lines(tmp_path, whole, line).ids()
    assert next(ids) == "a"
    with pytest.raises(BadFolder, match=f"no document at byte {len(whole)}"):
        next(ids)
