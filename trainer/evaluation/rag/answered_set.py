"""Questions with answers, and the documents that are searched for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.data.readers.beir import is_beir_folder
from trainer.data.readers.columns import is_blank
from trainer.data.readers.corpus import read_document_ids
from trainer.data.readers.json_lines import Record, read_json_lines
from trainer.data.readers.read import Split, layout_of
from trainer.data.readers.report import ReadReport
from trainer.data.retrieval_set import read_retrieval_set
from trainer.data.splits import in_hash_order
from trainer.errors import BadData
from trainer.evaluation.systems.system import Corpus

_QUESTIONS = ("question", "query", "text")
_ANSWERS = ("answers", "answer")


@dataclass(frozen=True)
class Question:
    """A question, its right answers, and the ids of documents that are judged to answer it."""

    key: str
    text: str
    answers: tuple[str, ...]
    documents: frozenset[str] = frozenset()


@dataclass(frozen=True)
class AnsweredSet:
    """Questions with answers, and the documents that are searched for them."""

    name: str
    questions: Sequence[Question]
    corpus: Corpus
    without_answers: int
    """The number of questions that were left out because they have no answer."""


def read_answered_set(
    source: str,
    split: Split = "test",
    corpus: str | None = None,
    max_questions: int | None = None,
) -> AnsweredSet:
    """Reads a BEIR folder whose queries.jsonl has a field `answers` (a text or a list of texts),
    or a table with `question` and `answers`, whose documents are those of `corpus`.

    At most `max_questions` are used, chosen by hash. Raises BadData.
    """
    if is_beir_folder(Path(source)):
        questions, documents = _from_beir(Path(source), split)
    else:
        questions, documents = _from_table(Path(source), corpus)
    answerable = [question for question in questions if question.answers]
    if not answerable:
        raise BadData(
            f"{source}: none of {len(questions):,} questions has an answer; add a field `answers`"
            " (a text or a list of texts) to each query. Without answers, `nearfar evaluate`"
            " measures the retrieval"
        )
    order = in_hash_order([question.text for question in answerable])[:max_questions]
    selection = [answerable[position] for position in sorted(order)]
    return AnsweredSet(source, selection, documents, len(questions) - len(answerable))


def _from_beir(folder: Path, split: Split) -> tuple[list[Question], Corpus]:
    judged_set = read_retrieval_set(str(folder), split)
    names = ("queries.jsonl", "queries.jsonl.gz")
    path = next(folder / name for name in names if (folder / name).is_file())
    answers = {
        str(record.values.get("_id", record.values.get("id"))): _answers(record)
        for record in read_json_lines(path)
        if isinstance(record, Record)
    }
    questions = [
        Question(
            key,
            text,
            answers.get(key, ()),
            frozenset(document for document, grade in judged_set.qrels[key].items() if grade > 0),
        )
        for key, text in zip(judged_set.query_ids, judged_set.queries, strict=True)
    ]
    corpus = Corpus.of(judged_set)
    return questions, corpus


def _from_table(path: Path, corpus: str | None) -> tuple[list[Question], Corpus]:
    layout = layout_of(path)
    if not path.is_file() or layout is None:
        raise BadData(
            f"{path} is neither a BEIR folder nor a table (.jsonl, .csv, .parquet) of questions"
            " with answers"
        )
    if corpus is None:
        raise BadData(f"{path} has no documents to search; name them: --corpus FILE")
    ids = read_document_ids(corpus, ReadReport(corpus))
    questions = []
    for number, record in enumerate(layout.read(path)):
        if not isinstance(record, Record):
            raise BadData(f"{path} cannot be used: {record}")
        text = next((record.values[name] for name in _QUESTIONS if name in record.values), None)
        if not isinstance(text, str) or is_blank(text):
            raise BadData(f"{record.source} has no question (a field {' or '.join(_QUESTIONS)})")
        questions.append(Question(f"q{number}", text, _answers(record)))
    return questions, Corpus(corpus, tuple(ids.values()), tuple(ids))


def _answers(record: Record) -> tuple[str, ...]:
    """Returns the answers of a record. Raises BadData if one is no text."""
    value: Any = next((record.values[name] for name in _ANSWERS if name in record.values), None)
    values = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(item, str) for item in values):
        raise BadData(f"{record.source}: the field 'answers' must be a text or a list of texts")
    return tuple(item for item in dict.fromkeys(values) if not is_blank(item))
