"""`RetrievalSet`: the queries, documents and judgements on which retrieval is evaluated."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from trainer.batch import identity
from trainer.data.readers.beir import (
    grades_by_query,
    is_beir_folder,
    judgements_with_texts,
    read_qrels,
)
from trainer.data.readers.columns import is_blank
from trainer.data.readers.corpus import read_document_ids
from trainer.data.readers.corpus_texts import CorpusTexts, JoinedTexts
from trainer.data.readers.image_folder import is_image_folder, judged_images, read_image_queries
from trainer.data.readers.read import Split, judged_texts, read_rows
from trainer.data.readers.report import ReadReport
from trainer.data.rows import Row
from trainer.data.splits import in_hash_order
from trainer.data.summary.limitations import folder_limitation, search_limitation
from trainer.errors import BadData
from trainer.images.reference import is_inline, label

_log = logging.getLogger("nearfar.data")
_NEW_ID = re.compile(r"[qd]\d+")


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
    limitation: str = ""
    """Why figures that are measured on this set are too high; "" for the search of a corpus."""
    has_images: bool = False
    """Whether the documents are references to images (`trainer.images.reference`)."""
    image_queries: "RetrievalSet | None" = None
    """The judged queries that are images, as references, on the same documents. Models of texts
    are not asked them.
    """

    @property
    def queries_by_id(self) -> dict[str, str]:
        """The texts of the queries by id, in their order."""
        return dict(zip(self.query_ids, self.queries, strict=True))

    @property
    def documents_by_id(self) -> dict[str, str]:
        """The texts of the documents by id, in their order."""
        return dict(zip(self.document_ids, self.documents, strict=True))

    @property
    def shown_documents(self) -> dict[str, str]:
        """What tables show of the documents by id: the text, or the path of an image; the id of an
        image that has none.
        """
        documents = self.documents_by_id
        if not self.has_images:
            return documents
        return {id_: id_ if is_inline(text) else label(text) for id_, text in documents.items()}


def read_retrieval_set(
    source: str,
    split: Split = "test",
    columns: Mapping[str, str] | None = None,
    max_queries: int | None = None,
    max_bad_rows_ratio: float = 0.001,
    corpus: str | None = None,
    has_images: bool = False,
) -> RetrievalSet:
    """Reads the retrieval set of a split of a data set in any layout.

    A BEIR folder gives its whole corpus. The documents of any other source are all its positives
    and negatives, and those of the file or BEIR folder `corpus`. If there are more than
    `max_queries` queries, a subset is selected by hash; it is the same in every run. Raises BadData
    or TooManyBadRows.
    """
    texts = None
    if corpus is not None:
        check_takes_corpus(corpus, source)
        ids = read_document_ids(corpus, ReadReport(corpus), max_bad_rows_ratio)
        texts = CorpusTexts.of(ids)
    retrieval_set, _ = read_set_and_report(
        source, split, columns, max_bad_rows_ratio, texts, has_images
    )
    return retrieval_set if max_queries is None else select_queries(retrieval_set, max_queries)


def check_takes_corpus(corpus: str, *sources: str) -> None:
    """Raises BadData if all sources are BEIR folders, so that the corpus would not be searched."""
    if all(is_beir_folder(Path(source)) for source in sources):
        folders = " and ".join(dict.fromkeys(sources))
        raise BadData(
            f"the corpus {corpus} would not be searched, because the BEIR layout of {folders} has"
            " its own; leave data.corpus or --corpus out."
        )


def read_set_and_report(
    source: str,
    split: Split,
    columns: Mapping[str, str] | None,
    max_bad_rows_ratio: float,
    corpus: CorpusTexts | None = None,
    has_images: bool = False,
) -> tuple[RetrievalSet, ReadReport]:
    """Returns the retrieval set with all queries, and the report of reading it.

    With `has_images`, the documents are images.
    """
    folder = Path(source)
    if is_image_folder(folder) if has_images else is_beir_folder(folder):
        retrieval_set, report = _read_folder(folder, split, max_bad_rows_ratio, has_images)
    else:
        rows = read_rows(source, columns, split, max_bad_rows_ratio, has_images=has_images)
        retrieval_set = retrieval_set_from_rows(rows, set_name(source, split), corpus)
        report = rows.report
    return with_images(retrieval_set) if has_images else retrieval_set, report


def with_images(retrieval_set: RetrievalSet) -> RetrievalSet:
    """Returns a set whose documents are references to images. It is usual to search only those of
    the set itself.
    """
    images = retrieval_set.image_queries and with_images(retrieval_set.image_queries)
    return replace(retrieval_set, has_images=True, limitation="", image_queries=images)


def set_name(source: str, split: Split) -> str:
    """Returns the name of a set for tables: that of its file or folder, and its split."""
    return f"{Path(source).name.split('.')[0]} {split}"


def retrieval_set_from_rows(
    rows: Sequence[Row], name: str, corpus: CorpusTexts | None = None
) -> RetrievalSet:
    """Builds a retrieval set from rows: each distinct query with its positives.

    The documents are those of `corpus`, then every distinct positive and negative that is not among
    them. Equal texts are one document. A scored row is a positive when its score is in the upper
    half of the range of all scores. `name` ends with the name of the split.

    >>> rows = [Row("q", "a", ("b",)), Row("q", "c")]
    >>> retrieval_set_from_rows(rows, "toy test").qrels
    {'q0': {'d0': 1, 'd2': 1}}
    >>> corpus = CorpusTexts.of({"x": "1", "c": "2"})
    >>> list(retrieval_set_from_rows(rows, "toy test", corpus).document_ids)
    ['1', '2', 'd0', 'd1']
    """
    known_documents = corpus or CorpusTexts((), ())
    texts_of_rows = dict.fromkeys(text for row in rows for text in (row.positive, *row.negatives))
    document_ids = known_documents.ids_of(texts_of_rows)
    known_ids = frozenset(filter(_NEW_ID.fullmatch, known_documents.ids))
    unused_query_ids, unused_ids = (new_ids(prefix, known_ids) for prefix in "qd")
    new_documents = [text for text in texts_of_rows if text not in document_ids]
    document_ids |= dict(zip(new_documents, unused_ids, strict=False))
    query_ids, qrels = _judgements(rows, document_ids, unused_query_ids)
    if not qrels:
        raise BadData(
            f"{name}: no row has a positive, so retrieval cannot be evaluated; give rows with"
            " different scores, or without scores."
        )
    texts: Sequence[str] = tuple(new_documents)
    ids: Sequence[str] = tuple(map(document_ids.__getitem__, texts))
    if corpus is not None:
        _warn_of_new_answers(name, qrels, frozenset(ids))
        ids, texts = JoinedTexts(corpus.ids, ids), JoinedTexts(corpus.texts, texts)
    return RetrievalSet(
        name,
        tuple(query_ids.values()),
        tuple(query_ids),
        ids,
        texts,
        qrels,
        search_limitation(len(texts), _own_documents(rows, name)) if corpus is None else "",
    )


def _judgements(
    rows: Sequence[Row], document_ids: Mapping[str, str], unused_ids: Iterator[str]
) -> tuple[dict[str, str], dict[str, dict[str, int]]]:
    """Returns the id of each query that has a positive, and the grades of its documents."""
    query_ids: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    middle = middle_score(rows)
    for row in rows:
        if row.labels is None or row.labels[0] > middle:
            if row.query not in query_ids:
                query_ids[row.query] = next(unused_ids)
            qrels.setdefault(query_ids[row.query], {})[document_ids[row.positive]] = 1
    return query_ids, qrels


def middle_score(rows: Sequence[Row]) -> float:
    """Returns the middle of the range of all scores; 0 if they are equal, or if there are none."""
    scores = [row.labels[0] for row in rows if row.labels is not None]
    return (min(scores) + max(scores)) / 2 if scores and min(scores) < max(scores) else 0.0


def new_ids(prefix: str, known_ids: Set[str]) -> Iterator[str]:
    """Yields ids that no document of the corpus has: a query with the id of a document would be
    taken for that document.
    """
    names = (f"{prefix}{number}" for number in count())
    return (name for name in names if name not in known_ids)


def _warn_of_new_answers(
    name: str, qrels: Mapping[str, Mapping[str, int]], new_documents: Set[str]
) -> None:
    answers = {document for grades in qrels.values() for document in grades}
    if new_answers := answers & new_documents:
        _log.warning(
            "%s: %d of its %d answers are not in the corpus, and were added to it. If they should"
            " be there, compare the texts: that of a document is its title, a space and its text.",
            name,
            len(new_answers),
            len(answers),
        )


def _own_documents(rows: Sequence[Row], name: str) -> str:
    split = name.split()[-1].replace("dev", "validation")
    kinds = "answers and negatives" if any(row.negatives for row in rows) else "answers"
    return f"{kinds} of the {split} set"


def select_queries(
    retrieval_set: RetrievalSet, max_queries: int, names: Sequence[str] = ()
) -> RetrievalSet:
    """Returns the set with at most `max_queries` queries in words, and as many that are images, and
    the same corpus. They are selected by the hash of `names`: by default that of their text, and of
    the id of an image, because its path depends on where the data are.
    """
    images = retrieval_set.image_queries
    names = names or [f"{identity(query)}" for query in retrieval_set.queries]
    positions = sorted(in_hash_order(names)[:max_queries])
    ids = tuple(retrieval_set.query_ids[position] for position in positions)
    return replace(
        retrieval_set,
        query_ids=ids,
        queries=tuple(retrieval_set.queries[position] for position in positions),
        qrels={key: retrieval_set.qrels[key] for key in ids},
        image_queries=images and select_queries(images, max_queries, images.query_ids),
    )


def _read_folder(
    folder: Path, split: Split, max_bad_rows_ratio: float, has_images: bool
) -> tuple[RetrievalSet, ReadReport]:
    """Reads the set without blank documents and queries, and without their judgements."""
    report = ReadReport(str(folder), layout="BEIR folder")
    judgements = read_qrels(folder, split, report)
    images = read_image_queries(folder, report, {item.query for item in judgements})
    in_words = [item for item in judgements if item.query not in images]
    by_image = [item for item in judgements if item.query in images]
    read, bad_before = (judged_images if has_images else judged_texts), report.bad_count
    in_words, queries, documents = read(folder, in_words, report, whole_corpus=True)
    bad_lines = {"corpus.jsonl": report.bad_count - bad_before}
    by_image = judgements_with_texts(by_image, images, documents, bad_lines, report)
    report.check_budget(max_bad_rows_ratio)
    documents = {key: text for key, text in documents.items() if not is_blank(text)}
    qrels = grades_by_query(in_words, queries, documents)
    if not qrels:
        raise BadData(
            f"{folder}: qrels/{split}.tsv has no query in words with a relevant document; give a"
            " split with at least one score above 0."
        )
    retrieval_set = RetrievalSet(
        name=f"{folder.name} {split}",
        query_ids=tuple(qrels),
        queries=tuple(queries[key] for key in qrels),
        document_ids=tuple(documents),
        documents=tuple(documents.values()),
        qrels=qrels,
        limitation=folder_limitation(folder, len(documents)),
    )
    if qrels := grades_by_query(by_image, images, documents):
        _log.warning("%s: %d queries are images, apart from those in words", folder, len(qrels))
        references = tuple(map(images.__getitem__, qrels))
        image_set = replace(retrieval_set, query_ids=tuple(qrels), queries=references, qrels=qrels)
        retrieval_set = replace(retrieval_set, image_queries=image_set)
    return retrieval_set, report
