"""The texts of a mining job: distinct queries and documents, positives, and forbidden pairs."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from trainer.batch import identity
from trainer.data.near_duplicates import normal_form
from trainer.data.readers.beir import is_beir_folder
from trainer.data.readers.corpus import read_corpus
from trainer.data.readers.report import ReadReport
from trainer.data.rows import Rows
from trainer.errors import BadData
from trainer.mining.texts import StoredTexts, TextWriter
from trainer.storage.atomic import atomic_file

_ARRAYS = (
    "query_identities",
    "query_forms",
    "document_identities",
    "document_forms",
    "pair_queries",
    "pair_documents",
    "known_queries",
    "known_documents",
)


@dataclass(frozen=True)
class Task:
    """Numbered queries and documents, without repetitions, in the order of the data.

    A form is the identity of a text's normal form, which has no case, punctuation or repeated white
    space. Texts with the same form are twins.
    """

    queries: StoredTexts
    documents: StoredTexts
    query_identities: Int64[np.ndarray, " query"]
    query_forms: Int64[np.ndarray, " query"]
    document_identities: Int64[np.ndarray, " document"]
    document_forms: Int64[np.ndarray, " document"]
    pair_queries: Int64[np.ndarray, " pair"]
    """The query of each distinct training pair, in ascending order."""
    pair_documents: Int64[np.ndarray, " pair"]
    """The positive of each of these pairs."""
    known_queries: Int64[np.ndarray, " known"]
    """Forms of queries, in ascending order."""
    known_documents: Int64[np.ndarray, " known"]
    """For each of these, the form of a text that cannot be its negative: a positive, or the query
    itself.
    """

    def positives(
        self, first: int, last: int
    ) -> tuple[Int64[np.ndarray, " pair"], Int64[np.ndarray, " pair"]]:
        """Returns the training pairs of queries `first` up to `last`: queries and documents.

        Queries are counted from `first`.
        """
        start, stop = np.searchsorted(self.pair_queries, [first, last])
        return self.pair_queries[start:stop] - first, self.pair_documents[start:stop]

    def select_queries(self, numbers: Int64[np.ndarray, " query"]) -> "Task":
        """Returns the task of these queries only, in ascending order; all known pairs remain."""
        queries, pairs = matches(numbers, self.pair_queries)
        return replace(
            self,
            queries=self.queries.select(numbers),
            query_identities=self.query_identities[numbers],
            query_forms=self.query_forms[numbers],
            pair_queries=queries,
            pair_documents=self.pair_documents[pairs],
        )

    def forbidden(
        self, first: int, last: int
    ) -> tuple[Int64[np.ndarray, " pair"], Int64[np.ndarray, " pair"]]:
        """Returns all pairs of queries `first` up to `last` with documents that cannot be
        negatives.

        These are the known positives of the query and of its twins, the twins of these documents,
        and twins of the query itself. Queries are counted from `first`; pairs are in ascending
        order.
        """
        queries, known_pairs = matches(self.query_forms[first:last], self.known_queries)
        order = np.argsort(self.document_forms, kind="stable")
        places_known, places = matches(
            self.known_documents[known_pairs], self.document_forms[order]
        )
        keys = np.unique(queries[places_known] * len(self.documents) + order[places])
        return keys // len(self.documents), keys % len(self.documents)


def matches(
    values: Int64[np.ndarray, " value"], ascending: Int64[np.ndarray, " other"]
) -> tuple[Int64[np.ndarray, " pair"], Int64[np.ndarray, " pair"]]:
    """Returns the places of all pairs of equal numbers.

    >>> [places.tolist() for places in matches(np.array([7, 5]), np.array([5, 5, 6, 7]))]
    [[0, 1, 1], [3, 0, 1]]
    """
    first, last = (
        np.searchsorted(ascending, values, "left"),
        np.searchsorted(ascending, values, "right"),
    )
    counts = last - first
    starts = np.cumsum(counts) - counts
    return np.repeat(np.arange(len(values)), counts), np.arange(int(counts.sum())) + np.repeat(
        first - starts, counts
    )


def write_task(folder: Path, rows: Rows, corpus: Iterable[str]) -> None:
    """Writes the task of training `rows` and a corpus; all positives are added to the corpus.

    Raises BadData when there are fewer than two documents.
    """
    queries_file = _NumberedTexts(folder / "queries.arrow")
    documents_file = _NumberedTexts(folder / "documents.arrow")
    queries, documents, positive_forms = [], [], []
    with queries_file.writer, documents_file.writer:
        for text in corpus:
            documents_file.number(text)
        for query, positive in _pairs(rows):
            queries.append(queries_file.number(query))
            documents.append(documents_file.number(positive))
            positive_forms.append(documents_file.forms[documents[-1]])
    if len(documents_file.forms) < 2:
        raise BadData(
            f"{rows.report.source}: the corpus has a single document, so none can be a negative;"
            " give more documents with --corpus"
        )
    query_forms = np.array(queries_file.forms, np.int64)
    known_pairs = _known_pairs(query_forms, queries, positive_forms)
    arrays = (
        queries_file.identities(),
        query_forms,
        documents_file.identities(),
        np.array(documents_file.forms, np.int64),
        *np.unique(np.array([queries, documents], np.int64), axis=1),
        *known_pairs,
    )
    with atomic_file(folder / "task.npz") as partial, partial.open("wb") as file:
        np.savez(file, **dict(zip(_ARRAYS, arrays, strict=True)))


def _known_pairs(
    query_forms: Int64[np.ndarray, " query"], queries: list[int], positive_forms: list[int]
) -> Int64[np.ndarray, "two known"]:
    """Returns the forms of queries with the forms of their positives, and with their own forms."""
    own_forms = np.unique(query_forms)
    with_positives = np.stack([query_forms[queries], np.array(positive_forms, np.int64)])
    with_themselves = np.stack([own_forms, own_forms])
    return np.unique(np.concatenate([with_positives, with_themselves], 1), axis=1)


def read_task(folder: Path) -> Task:
    """Reads the task that `write_task` has written to `folder`."""
    with np.load(folder / "task.npz", allow_pickle=False) as arrays:
        return Task(
            StoredTexts(folder / "queries.arrow"),
            StoredTexts(folder / "documents.arrow"),
            **{name: arrays[name] for name in _ARRAYS},
        )


def is_written(folder: Path) -> bool:
    """Returns true when `folder` holds a complete task."""
    return (folder / "task.npz").is_file()


def corpus_texts(
    sources: Sequence[str], rows: Rows, further_corpus: str | None, max_bad_rows_ratio: float
) -> Iterator[str]:
    """Yields the documents to search.

    These are the corpus of each BEIR folder, the positives and negatives of all rows, and the
    documents of the file or folder `further_corpus`.
    """
    for name in [source for source in sources if is_beir_folder(Path(source))] + (
        [further_corpus] if further_corpus else []
    ):
        for document in read_corpus(Path(name), ReadReport(name), max_bad_rows_ratio):
            yield document.full_text
    for batch in rows.batches(["positive", "negatives"]):
        yield from batch.column("positive").to_pylist()
        yield from (text for texts in batch.column("negatives").to_pylist() for text in texts)


class _NumberedTexts:
    """Writes texts to a file and numbers them; each text occurs once."""

    def __init__(self, path: Path) -> None:
        self.writer = TextWriter(path)
        self.numbers: dict[int, int] = {}
        self.forms: list[int] = []

    def identities(self) -> Int64[np.ndarray, " text"]:
        return np.fromiter(self.numbers, np.int64, len(self.numbers))

    def number(self, text: str) -> int:
        name = identity(text)
        number = self.numbers.setdefault(name, len(self.forms))
        if number == len(self.forms):
            self.writer.add(text)
            self.forms.append(identity(normal_form(text)))
        return number


def _pairs(rows: Rows) -> Iterator[tuple[str, str]]:
    """Yields queries and positives.

    A scored pair counts as positive when its score is in the upper half of the range of all scores.
    """
    all_labels = (
        labels
        for batch in rows.batches(["labels"])
        for labels in batch.column("labels").to_pylist()
    )
    scores = [labels[0] for labels in all_labels if labels is not None and len(labels) == 1]
    middle = (min(scores) + max(scores)) / 2 if scores and min(scores) < max(scores) else -np.inf
    for batch in rows.batches(["query", "positive", "negatives", "labels"]):
        for query, positive, negatives, labels in zip(
            *(column.to_pylist() for column in batch.columns), strict=True
        ):
            if negatives or labels is None or len(labels) != 1 or labels[0] > middle:
                yield query, positive
