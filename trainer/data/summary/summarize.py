"""Summarises a data set: splits, columns, lengths, bad rows, and leaks between splits."""

import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.near_duplicates import find_near_identical, normal_form
from trainer.data.readers.beir import Judgement, beir_splits, is_beir_folder, read_qrels
from trainer.data.readers.hub import is_saved_folder, saved_splits
from trainer.data.readers.image_folder import read_image_queries
from trainer.data.readers.read import judged_rows, judged_texts, read_rows
from trainer.data.readers.report import BadRow, ReadReport
from trainer.data.rows import Rows, count_duplicate_pairs, known_positives
from trainer.data.summary.document_shortage import document_shortage
from trainer.data.summary.kinds import KindSummary, summarize_kinds
from trainer.errors import BadData, TooManyBadRows
from trainer.storage.atomic import write_text

EXAMPLES = 3


@dataclass(frozen=True)
class Spread:
    """The minimum, median, 95th percentile and maximum of a count."""

    min: int
    median: int
    p95: int
    max: int

    @classmethod
    def of(cls, counts: Sequence[int] | np.ndarray) -> "Spread":
        """Returns the spread of counts.

        >>> Spread.of([1, 2, 9])
        Spread(min=1, median=2, p95=9, max=9)
        """
        ascending = np.sort(np.asarray(counts, dtype=np.int64))
        last = len(ascending) - 1
        positions = [0, last // 2, int(np.ceil(0.95 * len(ascending))) - 1, last]
        return cls(*(int(ascending[position]) for position in positions))


@dataclass(frozen=True)
class SplitSummary:
    """One split, or a file without splits."""

    name: str
    pairs: int
    queries: int
    answering_documents: int
    positives_per_query: Spread
    negatives_per_pair: Spread
    query_words: Spread
    document_words: Spread
    labels: tuple[float, float] | None
    """The lowest and the highest score; None without scores."""
    example: dict[str, str]

    @property
    def shortage(self) -> str:
        """What is wrong with the split as training pairs, if its documents are few; else ""."""
        return document_shortage(self.pairs, self.answering_documents)


@dataclass(frozen=True)
class Leak:
    """Texts that two splits share; they make the results on the second split too good."""

    kind: str
    splits: tuple[str, str]
    count: int
    examples: tuple[str, ...]


@dataclass
class DataSummary:
    """The content of a data set, and what is wrong with it."""

    report: ReadReport
    parts: list[SplitSummary]
    leaks: list[Leak]
    corpus_documents: int | None = None
    corpus_words: Spread | None = None
    kinds: Sequence[KindSummary] = ()
    """The kinds of pairs, for a folder of `nearfar data pairs`."""
    problem: str = ""
    """Why training on this data would end with `exit_code`; "" if it would not."""
    exit_code: int = 0

    def to_json(self) -> dict[str, Any]:
        """Returns the summary as values for JSON."""
        values = asdict(replace(self, report=replace(self.report, on_bad=None)))
        del values["report"]["on_bad"]
        return values


def summarize_data(
    source: str,
    columns: Mapping[str, str] | None = None,
    max_bad_rows_ratio: float = 0.001,
    on_bad: Callable[[BadRow], None] | None = None,
) -> DataSummary:
    """Summarises a file, folder or hub data set.

    Raises BadData if the source cannot be read. Too many bad rows raise no error. They are the
    `problem` of the summary.
    """
    folder = Path(source)
    if is_beir_folder(folder):
        summary = _summarize_beir(folder, on_bad)
    else:
        splits = saved_splits(folder) if is_saved_folder(folder) else ["train"]
        parts = {split: read_rows(source, columns, split, 1.0, None, on_bad) for split in splits}  # type: ignore[arg-type]
        names = parts if len(parts) > 1 else {"all": parts[splits[0]]}
        report = _sum_of_reports([rows.report for rows in parts.values()])
        summary = DataSummary(
            report, [_summarize_split(name, rows) for name, rows in names.items()], _leaks(names)
        )
    try:
        summary.report.check_budget(max_bad_rows_ratio)
    except TooManyBadRows as error:
        summary.problem, summary.exit_code = str(error), error.exit_code
    return summary


@contextmanager
def bad_rows_file(path: Path | None) -> Iterator[Callable[[BadRow], None] | None]:
    """Yields a function that collects bad rows, or None without a path.

    At the end of the block, also after an error, the rows are written to `path` as JSON Lines.
    """
    if path is None:
        yield None
        return
    rows: list[BadRow] = []
    try:
        yield rows.append
    finally:
        write_text(path, "".join(json.dumps(asdict(row)) + "\n" for row in rows))


def _summarize_beir(folder: Path, on_bad: Callable[[BadRow], None] | None) -> DataSummary:
    report = ReadReport(str(folder), layout="BEIR folder", on_bad=on_bad)
    positives = _positive_judgements(folder, report)
    complete, queries, documents = judged_texts(
        folder,
        [judgement for judgements in positives.values() for judgement in judgements],
        report,
        whole_corpus=True,
    )
    complete_sources = {judgement.source for judgement in complete}
    parts = {}
    for split, judgements in positives.items():
        usable = (judgement for judgement in judgements if judgement.source in complete_sources)
        parts[split] = Rows.of(judged_rows(usable, queries, documents, report))
        report.rows_kept += len(parts[split])
        report.duplicate_rows += count_duplicate_pairs(parts[split].table)
    if not report.rows_kept:
        raise BadData(
            f"{folder}: no query has a document that answers it; give qrels with scores above 0."
        )
    words = [len(text.split()) for text in documents.values()]
    return DataSummary(
        report,
        [_summarize_split(name, rows) for name, rows in parts.items() if len(rows)],
        _leaks(parts),
        len(words),
        Spread.of(words),
        summarize_kinds(folder, complete, queries, documents),
    )


def _positive_judgements(folder: Path, report: ReadReport) -> dict[str, list[Judgement]]:
    """Returns the judgements with a score above 0 of each split, beginning with train, dev and
    test, without those of queries that are images.
    """
    splits = sorted(
        beir_splits(folder),
        key=lambda name: (*(name != split for split in ("train", "dev", "test")), name),
    )
    if not splits:
        raise BadData(
            f"{folder} has no qrels/<split>.tsv, so it is not known which document answers which"
            " query; add at least qrels/train.tsv."
        )
    splits_and_judgements = [(split, read_qrels(folder, split, report)) for split in splits]
    ids = {judgement.query for _, judgements in splits_and_judgements for judgement in judgements}
    if images := read_image_queries(folder, report, ids):
        report.notes.append(f"{len(images):,} queries are images, left out of the pairs")
    return {
        split: [item for item in judgements if item.score > 0 and item.query not in images]
        for split, judgements in splits_and_judgements
    }


def _summarize_split(name: str, rows: Rows) -> SplitSummary:
    query_words, document_words, negatives = array("q"), array("q"), array("q")
    lowest, highest = np.inf, -np.inf
    for row in rows:
        query_words.append(len(row.query.split()))
        document_words.append(len(row.positive.split()))
        negatives.append(len(row.negatives))
        if row.labels:
            lowest, highest = min(lowest, *row.labels), max(highest, *row.labels)
    positives = known_positives(rows)
    return SplitSummary(
        name=name,
        pairs=len(rows),
        queries=len(positives),
        answering_documents=len(np.unique(rows.identities("positive"))),
        positives_per_query=Spread.of(positives.sizes()),
        negatives_per_pair=Spread.of(negatives),
        query_words=Spread.of(query_words),
        document_words=Spread.of(document_words),
        labels=(float(lowest), float(highest)) if np.isfinite(lowest) else None,
        example={"query": rows[0].query, "positive": rows[0].positive},
    )


def _leaks(parts: Mapping[str, Rows]) -> list[Leak]:
    """Finds texts that two splits share: equal queries, near-identical queries, and positives."""
    leaks = []
    for first, second in combinations(parts, 2):
        second_queries = {normal_form(row.query): row.query for row in parts[second]}
        same_forms = {
            form for row in parts[first] if (form := normal_form(row.query)) in second_queries
        }
        near_identical = find_near_identical(
            (row.query for row in parts[first] if normal_form(row.query) not in same_forms),
            second_queries.values(),
        )
        near_queries = list(dict.fromkeys(query for _, query in near_identical))
        shared_positives = np.intersect1d(
            parts[first].identities("positive"), parts[second].identities("positive")
        )
        same_queries = [second_queries[form] for form in sorted(same_forms)[:EXAMPLES]]
        positives = _positives_with(parts[second], shared_positives[:EXAMPLES])
        for kind, count, examples in (
            ("the same query", len(same_forms), same_queries),
            ("a near-identical query", len(near_queries), near_queries[:EXAMPLES]),
            ("the same positive document", len(shared_positives), positives),
        ):
            if count:
                leaks.append(Leak(kind, (first, second), count, tuple(examples)))
    return leaks


def _positives_with(rows: Rows, identities: np.ndarray) -> list[str]:
    """Returns the positives with these identities."""
    row_identities = rows.identities("positive")
    return [
        rows[int(np.flatnonzero(row_identities == identity)[0])].positive for identity in identities
    ]


def _sum_of_reports(reports: Iterable[ReadReport]) -> ReadReport:
    """Returns one report for all splits of a source."""
    total, *further_reports = reports
    for report in further_reports:
        for name in (
            "rows_read",
            "rows_kept",
            "blank_rows_dropped",
            "blank_texts_dropped",
            "own_negatives_dropped",
            "duplicate_rows",
            "truncated_texts",
        ):
            setattr(total, name, getattr(total, name) + getattr(report, name))
        total.bad = {
            reason: total.bad.get(reason, 0) + report.bad.get(reason, 0)
            for reason in total.bad | report.bad
        }
        total.bad_rows.extend(report.bad_rows)
    return total
