"""Writes a retrieval set to Arrow files, and reads it with its documents left on disk."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import overload

import pyarrow as pa

from trainer.data.readers.corpus_texts import CorpusTexts
from trainer.data.retrieval_set import RetrievalSet

_QUERIES, _DOCUMENTS, _QRELS = "queries.arrow", "documents.arrow", "qrels.arrow"
_FLUSH_ROWS, _FLUSH_CHARACTERS = 4096, 8_000_000


class TextColumn(Sequence[str]):
    """The texts of a memory-mapped column. A text is read when it is indexed.

    >>> texts = TextColumn(pa.chunked_array([["a", "b"], ["c"]]))
    >>> len(texts), texts[2], texts[-3], texts[1:]
    (3, 'c', 'a', ('b', 'c'))
    """

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[str, ...]: ...
    def __getitem__(self, at: int | slice) -> str | tuple[str, ...]:
        if isinstance(at, slice):
            return tuple(self._column[number].as_py() for number in range(len(self))[at])
        return self._column[at].as_py()

    def __iter__(self) -> Iterator[str]:
        for chunk in self._column.chunks:
            yield from chunk.to_pylist()


def write_set(folder: Path, retrieval_set: RetrievalSet) -> None:
    """Writes queries, documents and judgements to three Arrow files."""
    queries = zip(retrieval_set.query_ids, retrieval_set.queries, strict=True)
    documents = zip(retrieval_set.document_ids, retrieval_set.documents, strict=True)
    judgements = (
        (query, document, str(grade))  # a grade may be larger than 64 bits
        for query, grades in retrieval_set.qrels.items()
        for document, grade in grades.items()
    )
    _write_texts(folder / _QUERIES, ("id", "text"), queries)
    _write_texts(folder / _DOCUMENTS, ("id", "text"), documents)
    _write_texts(folder / _QRELS, ("query", "document", "grade"), judgements)


def load_set(
    tables: Mapping[str, pa.Table], name: str, limitation: str, has_images: bool = False
) -> RetrievalSet:
    """Returns the set that `write_set` wrote. Its documents stay on disk."""
    qrels: dict[str, dict[str, int]] = {}
    for query, document, grade in zip(*map(TextColumn, tables[_QRELS].columns), strict=True):
        qrels.setdefault(query, {})[document] = int(grade)
    query_ids, queries = (tuple(column.to_pylist()) for column in tables[_QUERIES].columns)
    document_ids, documents = map(TextColumn, tables[_DOCUMENTS].columns)
    return RetrievalSet(
        name, query_ids, queries, document_ids, documents, qrels, limitation, has_images
    )


def write_ids(folder: Path, ids: Mapping[str, str]) -> None:
    """Writes the id of each text to an Arrow file."""
    _write_texts(folder / _DOCUMENTS, ("text", "id"), ids.items())


def load_corpus(tables: Mapping[str, pa.Table]) -> CorpusTexts:
    """Returns the texts and ids that `write_ids` wrote. They stay on disk."""
    texts, ids = map(TextColumn, tables[_DOCUMENTS].columns)
    return CorpusTexts(ids, texts)


def _write_texts(path: Path, names: Sequence[str], rows: Iterable[tuple[str, ...]]) -> None:
    """Writes columns of texts, a few thousand rows at a time."""
    schema = pa.schema([(name, pa.string()) for name in names])
    pending: list[tuple[str, ...]] = []
    characters = 0
    with pa.ipc.new_file(str(path), schema) as file:

        def flush() -> None:
            if pending:
                columns = [pa.array(column, pa.string()) for column in zip(*pending, strict=True)]
                file.write_batch(pa.record_batch(columns, schema=schema))
                pending.clear()

        for row in rows:
            pending.append(row)
            characters += sum(map(len, row))
            if len(pending) >= _FLUSH_ROWS or characters >= _FLUSH_CHARACTERS:
                flush()
                characters = 0
        flush()
