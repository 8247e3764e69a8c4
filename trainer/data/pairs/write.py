"""Makes pairs from documents, splits them by document, and writes them as a BEIR folder."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from trainer.data.documents.read import read_documents
from trainer.data.pairs.candidates import KINDS, Candidate, find_candidates
from trainer.data.pairs.passages import (
    Passage,
    split_documents,
    title_of,
    without_near_duplicates,
)
from trainer.data.prepare.beir_folder import BeirSet, check_beir_target, write_beir_folder
from trainer.data.prepare.split import SplitRules
from trainer.data.readers.report import ReadReport
from trainer.data.splits import fill_splits
from trainer.data.summary.kinds import KindSummary, summarize_kind
from trainer.errors import BadData, BadFolder, BadRecipe
from trainer.storage.visible import visible

_BAD_FILES = 5
"""Files or rows that cannot be read, of which this many are named per source."""
_README = """{name}: pairs that `nearfar data pairs` made from {sources}.

The corpus is the passages of the documents. A sentence or heading that became a query is not in
its passage. The splits are by document. Each query has its kind and its document.

{lines}
"""


@dataclass(frozen=True)
class PairRules:
    """How pairs are made."""

    kinds: tuple[str, ...] = tuple(KINDS)
    passage_words: int = 180
    """The largest number of words per passage."""
    splits: SplitRules = field(default_factory=SplitRules)

    def __post_init__(self) -> None:
        if unknown := [kind for kind in self.kinds if kind not in KINDS]:
            raise BadRecipe(f"there is no kind of pairs {unknown[0]!r}; kinds: {', '.join(KINDS)}")


@dataclass(frozen=True)
class WrittenQuestions:
    """Questions that an endpoint wrote, and what happened to the others."""

    by_passage: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Key of a passage to its questions."""
    reasons: Mapping[str, int] = field(default_factory=dict)
    """What was set aside: reason to count."""
    remarks: Sequence[str] = ()
    """What the endpoint did, in words."""
    answers: str = ""
    """The stored answers, for `answers.jsonl`."""
    origin: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PairResult:
    """The pairs that were made."""

    reports: Sequence[ReadReport]
    source_documents: int
    passages: Sequence[Passage]
    candidates: Sequence[Candidate]
    split_of: Mapping[str, str]
    """Query to its split."""
    reasons: Mapping[str, int]
    """What was set aside: reason to count."""
    remarks: Sequence[str] = ()

    def counts(self, kind: str) -> dict[str, int]:
        """Returns the number of pairs of a kind in each split."""
        count = Counter(self.split_of[item.query] for item in self.candidates if item.kind == kind)
        return {split: count[split] for split in ("train", "dev", "test")}

    @cached_property
    def documents(self) -> dict[str, dict[str, str]]:
        """The records of the corpus by the key of their passage, without what became a query."""
        headings: Counter[str] = Counter()
        sentences: dict[str, set[str]] = {}
        for candidate in self.candidates:
            headings[candidate.passage.key] += candidate.headings
            sentences.setdefault(candidate.passage.key, set()).add(candidate.sentence)
        return {
            passage.key: {
                "_id": passage.key,
                "title": title_of(
                    passage.headings[: len(passage.headings) - headings[passage.key]]
                ),
                "text": passage.text_without(sentences.get(passage.key, frozenset())),
                "document": passage.document,
            }
            for passage in self.passages
        }

    def _samples(self, kind: str) -> KindSummary:
        pairs = [
            (item.query, self.documents[item.passage.key]["text"])
            for item in self.candidates
            if item.kind == kind
        ]
        return summarize_kind(kind, pairs)

    @property
    def lines(self) -> Iterator[str]:
        """What was read, the counts of each kind with samples, and what was set aside."""
        for report in self.reports:
            if report.remark:
                yield visible(report.remark)
            yield from (f"  {visible(str(bad))}" for bad in report.bad_rows[:_BAD_FILES])
        yield from map(visible, self.remarks)
        yield from self.counts_and_samples

    @property
    def counts_and_samples(self) -> Iterator[str]:
        """The counts of passages and of each kind, with samples, and what was set aside."""
        yield f"{self.source_documents:,} documents, {len(self.passages):,} passages in the corpus"
        for kind in KINDS:
            if total := sum((counts := self.counts(kind)).values()):
                parts = ", ".join(f"{name} {count:,}" for name, count in counts.items() if count)
                yield f"{kind}: {total:,} pairs ({parts})"
                yield from self._samples(kind).lines
        for reason, count in self.reasons.items():
            yield f"set aside: {count:,} {reason}"


def write_pairs(
    sources: Sequence[str],
    target: Path,
    rules: PairRules = PairRules(),
    *,
    columns: Mapping[str, str] | None = None,
    max_bad_rows_ratio: float = 0.001,
    write_questions: Callable[[Sequence[Passage]], WrittenQuestions] | None = None,
    replace: bool = False,
) -> PairResult:
    """Writes pairs that are made from documents to a BEIR folder with train, dev and test.

    All queries of a document are in one split. The same sources give the same bytes. Raises
    BadData, BadFolder or TooManyBadRows; then no data set is written.
    """
    check_beir_target(target, replace)
    documents, reports = read_documents(sources, columns or {}, max_bad_rows_ratio)
    all_passages = split_documents(documents, rules.passage_words)
    passages = without_near_duplicates(all_passages)
    questions = write_questions(passages) if write_questions else WrittenQuestions()
    candidates, reasons = find_candidates(passages, rules.kinds, questions.by_passage)
    reasons.update(questions.reasons)
    if repeats := len(all_passages) - len(passages):
        reasons["passages that are near-identical to an earlier one"] = repeats
    split_of = _split_by_document(candidates, rules.splits)
    result = PairResult(
        reports, len(documents), passages, candidates, split_of, reasons, questions.remarks
    )
    _check_splits(result, rules.splits)
    try:
        write_beir_folder(target, _beir_set(target.name, sources, result, questions), replace)
    except OSError as error:
        raise BadFolder(f"{target} cannot be written: {error.strerror or error}") from error
    return result


def _split_by_document(candidates: Iterable[Candidate], rules: SplitRules) -> dict[str, str]:
    queries: dict[str, list[str]] = {}
    for candidate in candidates:
        queries.setdefault(candidate.passage.document, []).append(candidate.query)
    sizes = rules.sizes(sum(map(len, queries.values())))
    splits = fill_splits([sorted(group) for group in queries.values()], sizes)
    return {query: name for name, members in splits.items() for query in members}


def _check_splits(result: PairResult, rules: SplitRules) -> None:
    """Raises BadData if there are no pairs, or none for a split."""
    if not result.candidates:
        reasons = "; ".join(f"{count:,} {reason}" for reason, count in result.reasons.items())
        raise BadData(
            f"no pair can be made from {len(result.passages):,} passages ({reasons}). Give"
            " documents with headings or with several sentences per passage, or let an endpoint"
            " write questions: --endpoint URL"
        )
    counts = Counter(result.split_of.values())
    if empty := [name for name in (*rules.sizes(1), "train") if not counts[name]]:
        documents = len({candidate.passage.document for candidate in result.candidates})
        raise BadData(
            f"{' and '.join(empty)} would have no queries: {len(result.candidates):,} pairs come"
            f" from {documents:,} document{'s' * (documents > 1)}, and each is in one split. Give"
            " more documents, or leave splits out: --dev 0 --test 0. Nothing was written"
        )


def _beir_set(
    name: str, sources: Sequence[str], result: PairResult, questions: WrittenQuestions
) -> BeirSet:
    qrels: dict[str, list[tuple[str, str, int]]] = {split: [] for split in ("train", "dev", "test")}
    for number, item in enumerate(result.candidates):
        qrels[result.split_of[item.query]].append((f"q{number}", item.passage.key, 1))
    source_names = [Path(source).name for source in sources]
    kinds = {kind: count for kind in KINDS if (count := sum(result.counts(kind).values()))}
    return BeirSet(
        corpus=result.documents.values(),
        queries=(
            {
                "_id": f"q{number}",
                "text": item.query,
                "kind": item.kind,
                "document": item.passage.document,
            }
            for number, item in enumerate(result.candidates)
        ),
        qrels=qrels,
        readme=_README.format(
            name=name, sources=", ".join(source_names), lines="\n".join(result.counts_and_samples)
        ),
        source={"name": name, "documents": source_names, "kinds": kinds, **questions.origin},
        answers=questions.answers,
    )
