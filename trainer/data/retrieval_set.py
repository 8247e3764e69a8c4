"""`RetrievalSet`: queries, documents and which answer which; what retrieval is measured on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from trainer.batch import identity
from trainer.data.readers.columns import is_blank
from trainer.data.readers.read import Split, judged_texts, read_rows
from trainer.data.readers.beir import is_beir_folder, read_qrels
from trainer.data.readers.report import ReadReport
from trainer.data.rows import Row
from trainer.data.splits import in_hash_order
from trainer.errors import BadData


@dataclass(frozen=True)
class RetrievalSet:
    """Queries and a corpus. `qrels` maps query id to document id to grade; it has every query, each
    with at least one grade above 0.
    """

    name: str
    query_ids: tuple[str, ...]
    queries: tuple[str, ...]
    document_ids: tuple[str, ...]
    documents: tuple[str, ...]
    qrels: dict[str, dict[str, int]]


def read_retrieval_set(
    source: str,
    split: Split = "test",
    columns: Mapping[str, str] | None = None,
    max_queries: int | None = None,
    max_bad_rows_ratio: float = 0.001,
) -> RetrievalSet:
    """The set of a BEIR folder's split with its whole corpus, or of a pair file, whose corpus is
    all its positives and negatives.

    With more than `max_queries` queries, a part chosen by hash is kept, the same in every run.
    Raises BadData or TooManyBadRows.
    """
    folder = Path(source)
    if folder.is_dir() and is_beir_folder(folder):
        found = _from_beir(folder, split, max_bad_rows_ratio)
    else:
        found = from_rows(
            read_rows(source, columns, split, max_bad_rows_ratio),
            f"{folder.name.split('.')[0]} {split}",
        )
    return with_fewer_queries(found, max_queries) if max_queries is not None else found


def from_rows(rows: Sequence[Row], name: str) -> RetrievalSet:
    """The set of these rows: each distinct query with its positives; the corpus is every distinct
    positive and negative.

    A scored row is a positive when its score is in the upper half of the range of all scores.

    >>> from_rows([Row("q", "a", ("b",)), Row("q", "c")], "toy").qrels
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
            f"{name}: no row has a positive, so there is nothing to find; give rows with different"
            " scores, or without scores."
        )
    return RetrievalSet(
        name,
        tuple(queries.values()),
        tuple(queries),
        tuple(documents.values()),
        tuple(documents),
        qrels,
    )


def with_fewer_queries(whole: RetrievalSet, max_queries: int) -> RetrievalSet:
    """The set with at most so many queries, chosen by hash; the corpus stays whole."""
    if len(whole.queries) <= max_queries:
        return whole
    chosen = sorted(in_hash_order([f"{identity(query)}" for query in whole.queries])[:max_queries])
    ids: Sequence[str] = [whole.query_ids[at] for at in chosen]
    return replace(
        whole,
        query_ids=tuple(ids),
        queries=tuple(whole.queries[at] for at in chosen),
        qrels={key: whole.qrels[key] for key in ids},
    )


def _from_beir(folder: Path, split: Split, max_bad_rows_ratio: float) -> RetrievalSet:
    """Blank documents and queries are left out, with the judgements that name them."""
    report = ReadReport(str(folder), layout="BEIR folder")
    judged, queries, documents = judged_texts(
        folder, read_qrels(folder, split, report), report, whole_corpus=True
    )
    report.check_budget(max_bad_rows_ratio)
    documents = {key: text for key, text in documents.items() if not is_blank(text)}
    qrels: dict[str, dict[str, int]] = {}
    for judgement in judged:
        if judgement.document in documents and not is_blank(queries[judgement.query]):
            qrels.setdefault(judgement.query, {})[judgement.document] = judgement.score
    qrels = {query: grades for query, grades in qrels.items() if max(grades.values()) > 0}
    if not qrels:
        raise BadData(
            f"{folder}: qrels/{split}.tsv has no query with a relevant document; give a split with"
            " at least one score above 0."
        )
    return RetrievalSet(
        name=f"{folder.name} {split}",
        query_ids=tuple(qrels),
        queries=tuple(queries[key] for key in qrels),
        document_ids=tuple(documents),
        documents=tuple(documents.values()),
        qrels=qrels,
    )
