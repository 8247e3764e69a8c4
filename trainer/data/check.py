"""`nearfar data check`: what a data set holds, what was understood of it, and what is wrong with
it.
"""

from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.readers.columns import is_blank
from trainer.data.near_duplicates import near_identical, normal_form
from trainer.data.readers.read import judged_texts, read_rows
from trainer.data.readers.beir import beir_splits, is_beir_folder, read_qrels
from trainer.data.readers.hub import is_saved_folder, saved_splits
from trainer.data.readers.report import BadRow, ReadReport
from trainer.data.rows import Row, Rows, duplicate_pairs, known_positives
from trainer.errors import BadData, TooManyBadRows

EXAMPLES = 3


@dataclass(frozen=True)
class Spread:
    """Smallest, median, 95th percentile and largest of a count."""

    min: int
    median: int
    p95: int
    max: int

    @classmethod
    def of(cls, counts: Sequence[int] | np.ndarray) -> "Spread":
        """The spread of some counts.

        >>> Spread.of([1, 2, 9])
        Spread(min=1, median=2, p95=9, max=9)
        """
        ordered = np.sort(np.asarray(counts, dtype=np.int64))
        at = [0, (len(ordered) - 1) // 2, int(np.ceil(0.95 * len(ordered))) - 1, len(ordered) - 1]
        return cls(*(int(ordered[position]) for position in at))


@dataclass(frozen=True)
class Part:
    """One split, or a whole file."""

    name: str
    pairs: int
    queries: int
    answering_documents: int
    positives_per_query: Spread
    negatives_per_pair: Spread
    query_words: Spread
    document_words: Spread
    labels: tuple[float, float] | None
    """Lowest and highest score, None without scores."""
    example: dict[str, str]


@dataclass(frozen=True)
class Leak:
    """Something that stands in two splits: it makes the later one easier than it is."""

    kind: str
    splits: tuple[str, str]
    count: int
    examples: tuple[str, ...]


@dataclass
class Findings:
    """All that a check found."""

    report: ReadReport
    parts: list[Part]
    leaks: list[Leak]
    corpus_documents: int | None = None
    corpus_words: Spread | None = None
    problem: str = ""
    """Why a run on this data would end with `exit_code`."""
    exit_code: int = 0

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        values = asdict(replace(self, report=replace(self.report, on_bad=None)))
        del values["report"]["on_bad"]
        return values


def check(
    source: str,
    columns: Mapping[str, str] | None = None,
    max_bad_rows_ratio: float = 0.001,
    on_bad: Callable[[BadRow], None] | None = None,
) -> Findings:
    """What the file, folder or hub data set holds. Raises BadData where reading it does; too many
    bad rows are a finding.
    """
    folder = Path(source)
    if folder.is_dir() and is_beir_folder(folder):
        findings = _check_beir(folder, on_bad)
    else:
        splits = saved_splits(folder) if folder.is_dir() and is_saved_folder(folder) else ["train"]
        parts = {split: read_rows(source, columns, split, 1.0, None, on_bad) for split in splits}  # type: ignore[arg-type]
        names = parts if len(parts) > 1 else {"all": parts[splits[0]]}
        report = _sum_of([rows.report for rows in parts.values()])
        findings = Findings(
            report, [_part(name, rows) for name, rows in names.items()], _leaks(names)
        )
    try:
        findings.report.check_budget(max_bad_rows_ratio)
    except TooManyBadRows as error:
        findings.problem, findings.exit_code = str(error), error.exit_code
    return findings


def _check_beir(folder: Path, on_bad: Callable[[BadRow], None] | None) -> Findings:
    report = ReadReport(str(folder), layout="BEIR folder", on_bad=on_bad)
    splits = sorted(
        beir_splits(folder),
        key=lambda name: (*(name != known for known in ("train", "dev", "test")), name),
    )
    if not splits:
        raise BadData(
            f"{folder} has no qrels/<split>.tsv, so nothing says which document answers which"
            " query; add at least qrels/train.tsv."
        )
    judged = {
        split: [judgement for judgement in read_qrels(folder, split, report) if judgement.score > 0]
        for split in splits
    }
    kept, queries, documents = judged_texts(
        folder,
        [judgement for part in judged.values() for judgement in part],
        report,
        whole_corpus=True,
    )
    good = {judgement.source for judgement in kept}
    parts = {}
    for split, judgements in judged.items():
        rows = [
            Row(queries[one.query], documents[one.document], source=one.source)
            for one in judgements
            if one.source in good
        ]
        usable = [row for row in rows if not is_blank(row.query) and not is_blank(row.positive)]
        report.blank_rows_dropped += len(rows) - len(usable)
        parts[split] = Rows.of(usable)
        report.rows_kept += len(usable)
        report.duplicate_rows += duplicate_pairs(parts[split].table)
    if not report.rows_kept:
        raise BadData(
            f"{folder}: no query has a document that answers it; give qrels with scores above 0."
        )
    words = [len(text.split()) for text in documents.values()]
    return Findings(
        report,
        [_part(name, rows) for name, rows in parts.items() if len(rows)],
        _leaks(parts),
        len(words),
        Spread.of(words),
    )


def _part(name: str, rows: Rows) -> Part:
    query_words, document_words, negatives = array("q"), array("q"), array("q")
    lowest, highest = np.inf, -np.inf
    for row in rows:
        query_words.append(len(row.query.split()))
        document_words.append(len(row.positive.split()))
        negatives.append(len(row.negatives))
        if row.labels:
            lowest, highest = min(lowest, *row.labels), max(highest, *row.labels)
    known = known_positives(rows)
    return Part(
        name=name,
        pairs=len(rows),
        queries=len(known),
        answering_documents=len(np.unique(rows.identities("positive"))),
        positives_per_query=Spread.of(known.sizes()),
        negatives_per_pair=Spread.of(negatives),
        query_words=Spread.of(query_words),
        document_words=Spread.of(document_words),
        labels=(float(lowest), float(highest)) if np.isfinite(lowest) else None,
        example={"query": rows[0].query, "positive": rows[0].positive},
    )


def _leaks(parts: Mapping[str, Rows]) -> list[Leak]:
    """What each two splits share: queries in normal form, near-identical queries, positives."""
    leaks = []
    for one, other in combinations(parts, 2):
        held = {normal_form(row.query): row.query for row in parts[other]}
        same = {form for row in parts[one] if (form := normal_form(row.query)) in held}
        near = dict(
            near_identical(
                (row.query for row in parts[one] if normal_form(row.query) not in same),
                held.values(),
            )
        )
        shared = np.intersect1d(
            parts[one].identities("positive"), parts[other].identities("positive")
        )
        texts = _positives_with(parts[other], shared[:EXAMPLES])
        for kind, count, examples in (
            ("the same query", len(same), [held[form] for form in sorted(same)[:EXAMPLES]]),
            (
                "a near-identical query",
                len(set(near.values())),
                list(dict.fromkeys(near.values()))[:EXAMPLES],
            ),
            ("the same positive document", len(shared), texts),
        ):
            if count:
                leaks.append(Leak(kind, (one, other), count, tuple(examples)))
    return leaks


def _positives_with(rows: Rows, identities: np.ndarray) -> list[str]:
    positions = [
        int(np.flatnonzero(rows.identities("positive") == wanted)[0]) for wanted in identities
    ]
    return [rows[at].positive for at in positions]


def _sum_of(reports: Iterable[ReadReport]) -> ReadReport:
    """One report of several splits of one source."""
    first, *others = reports
    for other in others:
        for name in (
            "rows_read",
            "rows_kept",
            "blank_rows_dropped",
            "blank_texts_dropped",
            "own_negatives_dropped",
            "duplicate_rows",
            "truncated_texts",
        ):
            setattr(first, name, getattr(first, name) + getattr(other, name))
        first.bad = {
            reason: first.bad.get(reason, 0) + other.bad.get(reason, 0)
            for reason in first.bad | other.bad
        }
        first.bad_rows.extend(other.bad_rows)
    return first
