"""`RetrievalSet`: the queries, documents and judgements on which retrieval is evaluated."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from trainer.batch import identity
from trainer.data.readers.beir import is_beir_folder, read_qrels
from trainer.data.readers.columns import is_blank
from trainer.data.readers.read import Split, judged_texts, read_rows
from trainer.data.readers.report import ReadReport
from trainer.data.rows import Row
from trainer.data.splits import in_hash_order
from trainer.errors import BadData


@dataclass(frozen=True)
class RetrievalSet:
    """Queries and a corpus with judgements.

    `qrels` maps query id to document id to grade. Every query has at least one grade above 0.
    """

    name: str
    query_ids: tuple[str, ...]
    queries: tuple[str, ...]
    document_ids: Sequence[str]
    documents: Sequence[str]
    qrels: dict[str, dict[str, int]]


def read_retrieval_set(
    source: str,
    split: Split = "test",
    columns: Mapping[str, str] | None = None,
    max_queries: int | None = None,
    max_bad_rows_ratio: float = 0.001,
) -> RetrievalSet:
    """Reads the retrieval set of a split of a data set in any layout.

    A BEIR folder gives its whole corpus. The corpus of any other source is all its positives and
    negatives. If there are more than `max_queries` queries, a subset is selected by hash; it is the
    same in every run. Raises BadData or TooManyBadRows.
    """
    retrieval_set, _ = read_set_and_report(source, split, columns, max_bad_rows_ratio)
    return retrieval_set if max_queries is None else select_queries(retrieval_set, max_queries)


def read_set_and_report(
    source: str, split: Split, columns: Mapping[str, str] | None, max_bad_rows_ratio: float
) -> tuple[RetrievalSet, ReadReport]:
    """Returns the retrieval set with all queries, and the report of reading it."""
    folder = Path(source)
    if is_beir_folder(folder):
        return _read_beir(folder, split, max_bad_rows_ratio)
    rows = read_rows(source, columns, split, max_bad_rows_ratio)
    return retrieval_set_from_rows(rows, f"{folder.name.split('.')[0]} {split}"), rows.report


def retrieval_set_from_rows(rows: Sequence[Row], name: str) -> RetrievalSet:
    """Builds a retrieval set from rows: each distinct query with its positives. The corpus is every
    distinct positive and negative.

    A scored row is a positive when its score is in the upper half of the range of all scores.

    >>> retrieval_set_from_rows([Row("q", "a", ("b",)), Row("q", "c")], "toy").qrels
    {'q0': {'d0': 1, 'd2': 1}}
    """
    queries: dict[str, str] = {}
    documents: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    scores = [row.labels[0] for row in rows if row.labels is not None]
    middle = (min(scores) + max(scores)) / 2 if scores and min(scores) < max(scores) else 0.0
    for row in rows:
        for document in (row.positive, *row.negatives):
            documents.setdefault(document, f"d{len(documents)}")
        if row.labels is None or row.labels[0] > middle:
            query = queries.setdefault(row.query, f"q{len(queries)}")
            qrels.setdefault(query, {})[documents[row.positive]] = 1
    if not qrels:
        raise BadData(
            f"{name}: no row has a positive, so retrieval cannot be evaluated; give rows with"
            " different scores, or without scores."
        )
    return RetrievalSet(
        name,
        tuple(queries.values()),
        tuple(queries),
        tuple(documents.values()),
        tuple(documents),
        qrels,
    )


def select_queries(retrieval_set: RetrievalSet, max_queries: int) -> RetrievalSet:
    """Returns the set with at most `max_queries` queries, selected by hash, and the same corpus."""
    if len(retrieval_set.queries) <= max_queries:
        return retrieval_set
    hash_order = in_hash_order([f"{identity(query)}" for query in retrieval_set.queries])
    positions = sorted(hash_order[:max_queries])
    ids = tuple(retrieval_set.query_ids[position] for position in positions)
    return replace(
        retrieval_set,
        query_ids=ids,
        queries=tuple(retrieval_set.queries[position] for position in positions),
        qrels={key: retrieval_set.qrels[key] for key in ids},
    )


def _read_beir(
    folder: Path, split: Split, max_bad_rows_ratio: float
) -> tuple[RetrievalSet, ReadReport]:
    """Reads the set without blank documents and queries, and without their judgements."""
    report = ReadReport(str(folder), layout="BEIR folder")
    judgements, queries, documents = judged_texts(
        folder, read_qrels(folder, split, report), report, whole_corpus=True
    )
    report.check_budget(max_bad_rows_ratio)
    documents = {key: text for key, text in documents.items() if not is_blank(text)}
    qrels: dict[str, dict[str, int]] = {}
    for judgement in judgements:
        if judgement.document in documents and not is_blank(queries[judgement.query]):
            qrels.setdefault(judgement.query, {})[judgement.document] = judgement.score
    qrels = {query: grades for query, grades in qrels.items() if max(grades.values()) > 0}
    if not qrels:
        raise BadData(
            f"{folder}: qrels/{split}.tsv has no query with a relevant document; give a split with"
            " at least one score above 0."
        )
    retrieval_set = RetrievalSet(
        name=f"{folder.name} {split}",
        query_ids=tuple(qrels),
        queries=tuple(queries[key] for key in qrels),
        document_ids=tuple(documents),
        documents=tuple(documents.values()),
        qrels=qrels,
    )
    return retrieval_set, report
