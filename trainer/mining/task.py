"""What is mined: the distinct queries and documents of the data, which document answers which
query, and which may therefore be no negative.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from trainer.batch import identity
from trainer.data.near_duplicates import normal_form
from trainer.data.readers.beir import is_beir_folder
from trainer.data.readers.report import ReadReport
from trainer.data.rows import Rows
from trainer.errors import BadData
from trainer.mining.texts import StoredTexts, TextWriter
from trainer.retrieval.corpus import read_corpus

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
    """Queries and documents by number, without repetitions, in the order of the data.

    A form is the identity of a text's normal form, without case, punctuation and runs of white
    space: texts of one form are twins.
    """

    queries: StoredTexts
    documents: StoredTexts
    query_identities: Int64[np.ndarray, " query"]
    query_forms: Int64[np.ndarray, " query"]
    document_identities: Int64[np.ndarray, " document"]
    document_forms: Int64[np.ndarray, " document"]
    pair_queries: Int64[np.ndarray, " pair"]
    """Query of each distinct training pair, in ascending order."""
    pair_documents: Int64[np.ndarray, " pair"]
    """Its positive."""
    known_queries: Int64[np.ndarray, " known"]
    """Form of a query, ascending, and beside it the form of a text that is no negative for it: its
    positives', and its own.
    """
    known_documents: Int64[np.ndarray, " known"]

    def positives(
        self, first: int, last: int
    ) -> tuple[Int64[np.ndarray, " pair"], Int64[np.ndarray, " pair"]]:
        """The training pairs of queries `first` up to `last`: queries counted from `first`, and
        documents.
        """
        start, stop = np.searchsorted(self.pair_queries, [first, last])
        return self.pair_queries[start:stop] - first, self.pair_documents[start:stop]

    def of_queries(self, numbers: Int64[np.ndarray, " query"]) -> "Task":
        """The task of these queries alone, in ascending order; what is known of all others stays
        known.
        """
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
        """All pairs of the queries `first` up to `last`, counted from `first`, with documents that
        are no negatives for them, in ascending order.

        Those are the known positives of the query and of its twins, the twins of these, and twins
        of the query itself.
        """
        queries, known = matches(self.query_forms[first:last], self.known_queries)
        order = np.argsort(self.document_forms, kind="stable")
        of_known, places = matches(self.known_documents[known], self.document_forms[order])
        keys = np.unique(queries[of_known] * len(self.documents) + order[places])
        return keys // len(self.documents), keys % len(self.documents)


def matches(
    values: Int64[np.ndarray, " value"], ascending: Int64[np.ndarray, " other"]
) -> tuple[Int64[np.ndarray, " pair"], Int64[np.ndarray, " pair"]]:
    """Places of all pairs of equal numbers.

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
    """Writes the task of training `rows` and a corpus, to which all positives are added. Raises
    BadData when there are no two documents.
    """
    asked = _Numbered(folder / "queries.arrow")
    found = _Numbered(folder / "documents.arrow")
    queries, documents, positive_forms = [], [], []
    with asked.writer, found.writer:
        for text in corpus:
            found.number(text)
        for query, positive in _pairs(rows):
            queries.append(asked.number(query))
            documents.append(found.number(positive))
            positive_forms.append(found.forms[documents[-1]])
    if len(found.forms) < 2:
        raise BadData(
            f"{rows.report.source}: the corpus has a single document, so there is no other to be a"
            " negative; name more with --corpus"
        )
    query_forms, document_forms = np.array(asked.forms, np.int64), np.array(found.forms, np.int64)
    pairs = np.unique(np.array([queries, documents], np.int64), axis=1)
    own = np.unique(query_forms)
    known = np.unique(
        np.concatenate(
            [
                np.stack([query_forms[queries], np.array(positive_forms, np.int64)]),
                np.stack([own, own]),
            ],
            1,
        ),
        axis=1,
    )
    identities = (np.fromiter(each.numbers, np.int64, len(each.numbers)) for each in (asked, found))
    partial = folder / ".task.partial.npz"
    np.savez(
        partial,
        **dict(
            zip(
                _ARRAYS,
                (next(identities), query_forms, next(identities), document_forms, *pairs, *known),
                strict=True,
            )
        ),
    )
    partial.replace(folder / "task.npz")


def read_task(folder: Path) -> Task:
    """What `write_task` wrote into `folder`."""
    with np.load(folder / "task.npz", allow_pickle=False) as arrays:
        return Task(
            StoredTexts(folder / "queries.arrow"),
            StoredTexts(folder / "documents.arrow"),
            **{name: arrays[name] for name in _ARRAYS},
        )


def is_written(folder: Path) -> bool:
    """Whether `folder` holds a whole task."""
    return (folder / "task.npz").is_file()


def corpus_texts(
    sources: Sequence[str], rows: Rows, further: str | None, max_bad_rows_ratio: float
) -> Iterator[str]:
    """Documents to search: the corpus of each BEIR folder, the positives and negatives of all rows,
    and those of the file or folder `further`.
    """
    for name in [source for source in sources if is_beir_folder(Path(source))] + (
        [further] if further else []
    ):
        for document in read_corpus(Path(name), ReadReport(name), max_bad_rows_ratio):
            yield document.full_text
    for batch in rows.batches(["positive", "negatives"]):
        yield from batch.column("positive").to_pylist()
        yield from (text for texts in batch.column("negatives").to_pylist() for text in texts)


class _Numbered:
    """Texts written to a file and numbered, each once."""

    def __init__(self, path: Path) -> None:
        self.writer = TextWriter(path)
        self.numbers: dict[int, int] = {}
        self.forms: list[int] = []

    def number(self, text: str) -> int:
        name = identity(text)
        number = self.numbers.setdefault(name, len(self.forms))
        if number == len(self.forms):
            self.writer.add(text)
            self.forms.append(identity(normal_form(text)))
        return number


def _pairs(rows: Rows) -> Iterator[tuple[str, str]]:
    """Queries and positives; a scored pair counts when its score is in the upper half of the range
    of all such scores.
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
