"""Pairs with a corpus: distinct queries and documents, and which document answers which query."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from trainer.data.readers.beir import is_beir_folder
from trainer.data.readers.corpus import Document, read_corpus
from trainer.data.readers.read import read_rows
from trainer.data.readers.report import ReadReport
from trainer.data.retrieval_set import middle_score, new_ids
from trainer.data.rows import Row, Rows
from trainer.errors import BadData


@dataclass
class JudgedPairs:
    """Distinct queries and documents, and which document answers which query."""

    corpus: str | None
    """The source of the corpus; None: the documents are those of the pairs."""
    reports: list[ReadReport]
    queries: dict[str, str] = field(default_factory=dict)
    """Text to id."""
    documents: dict[str, Document] = field(default_factory=dict)
    """Text to document: those of the corpus, then those of the pairs that are not in it."""
    pairs: dict[tuple[str, str], None] = field(default_factory=dict)
    """Texts of query and document, in order."""
    corpus_documents: int = 0
    equal_documents: int = 0
    """Number of documents of the corpus whose text is that of an earlier one."""
    duplicate_pairs: int = 0
    low_scores: int = 0
    """Number of pairs whose score is in the lower half: the document is no answer."""
    negatives: int = 0


def read_judged_pairs(
    source: str, corpus: str | None, columns: Mapping[str, str] | None, max_bad_rows_ratio: float
) -> JudgedPairs:
    """Reads pairs in any layout, and the documents of a corpus. Equal texts are one document.

    Raises BadData or TooManyBadRows.
    """
    if is_beir_folder(Path(source)):
        raise BadData(f"{source} is a BEIR folder, which has splits; give a file of pairs")
    rows = read_rows(source, columns, max_bad_rows_ratio=max_bad_rows_ratio)
    data_set = JudgedPairs(corpus, [rows.report])
    if corpus is not None:
        data_set.reports.append(ReadReport(corpus))
        for document in read_corpus(Path(corpus), data_set.reports[-1], max_bad_rows_ratio):
            if data_set.documents.setdefault(document.full_text, document) is not document:
                data_set.equal_documents += 1
    data_set.corpus_documents = len(data_set.documents)
    _check_ids(data_set)
    _add_rows(data_set, rows)
    if not data_set.pairs:
        raise BadData(f"{source}: no pair has a score in the upper half; give pairs that answer")
    return data_set


def _check_ids(data_set: JudgedPairs) -> None:
    """Raises BadData for an id that cannot stand in a line of qrels, which tabs divide."""
    for document in data_set.documents.values():
        if not document.id or set(document.id) & set("\t\r\n"):
            raise BadData(
                f"{data_set.corpus}: the id {document.id!r} cannot be used, because it is empty or"
                " has a tab or a line break; change it, or leave the ids out"
            )


def _add_rows(data_set: JudgedPairs, rows: Rows) -> None:
    known_ids = frozenset(document.id for document in data_set.documents.values())
    query_ids, document_ids = (new_ids(prefix, known_ids) for prefix in "qd")
    middle = middle_score(rows)
    for row in rows:
        data_set.negatives += len(row.negatives)
        for text in (row.positive, *row.negatives):
            if text not in data_set.documents:
                data_set.documents[text] = Document(next(document_ids), "", text)
        pair = (row.query, row.positive)
        if _is_low(row, middle):
            data_set.low_scores += 1
        elif pair in data_set.pairs:
            data_set.duplicate_pairs += 1
        else:
            if row.query not in data_set.queries:
                data_set.queries[row.query] = next(query_ids)
            data_set.pairs[pair] = None


def _is_low(row: Row, middle: float) -> bool:
    return row.labels is not None and row.labels[0] <= middle
