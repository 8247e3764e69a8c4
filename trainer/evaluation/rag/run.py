"""One `nearfar rag`: questions, systems, reader, result."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.data.readers.read import Split
from trainer.endpoint.answers import StoredAnswers
from trainer.endpoint.client import open_endpoint
from trainer.errors import BadFolder, BadRecipe
from trainer.evaluation.rag.answered_set import AnsweredSet, read_answered_set
from trainer.evaluation.rag.measure import RagResult, ReaderSettings, measure_rag
from trainer.evaluation.rag.text import RESULT_FILE, result_lines, to_json, wrong_answers
from trainer.evaluation.systems.names import SystemName, parse_systems
from trainer.evaluation.systems.open import SystemOpener
from trainer.storage.atomic import write_text

ANSWER_FILE = "answers.jsonl"


@dataclass(frozen=True)
class RagSettings:
    """Which questions are measured, and who reads the passages."""

    split: Split = "test"
    corpus: str | None = None
    max_questions: int | None = None
    reader: str | None = None
    """The URL of an endpoint; None measures the passages alone."""
    reader_model: str | None = None
    timeout_seconds: float = 60.0
    passages: int = 5
    parallel: int = 4
    wrong_answers: int = 10
    """The number of wrong answers in the result."""


def run_rag(
    data: str,
    systems: Sequence[str],
    folder: Path,
    settings: RagSettings,
    find_model: Callable[[str], str] = str,
    tell: Callable[[str], None] = lambda line: None,
) -> Iterator[str]:
    """Yields the result line by line, and writes `rag.json` to the folder.

    Answers of the reader are stored in the folder at once; the same command asks for the others.
    Raises BadRecipe without systems, and BadData, BadModel, BadEndpoint or BadFolder.
    """
    names = _names(systems, find_model)
    if folder.exists() and not folder.is_dir():
        raise BadFolder(f"{folder} is a file; choose another folder with -o")
    reader = _reader(folder, settings)
    answered_set = read_answered_set(data, settings.split, settings.corpus, settings.max_questions)
    results = _results(names, answered_set, reader, tell)
    documents = dict(zip(answered_set.corpus.ids, answered_set.corpus.texts, strict=True))
    questions = len(answered_set.questions)
    yield f"{data}: {questions:,} questions with answers, {len(documents):,} documents"
    if answered_set.without_answers:
        yield f"left out: {answered_set.without_answers:,} questions without an answer"
    yield from result_lines(results)
    yield from wrong_answers(results[-1], documents, settings.wrong_answers)
    content = to_json(data, results, reader.endpoint.model if reader else None, settings.passages)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / RESULT_FILE, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    except OSError as error:
        raise BadFolder(f"{folder} cannot be written: {error.strerror or error}") from error
    yield f"{folder / RESULT_FILE}: all questions with their passages and answers"


def _reader(folder: Path, settings: RagSettings) -> ReaderSettings | None:
    if settings.reader is None:
        return None
    endpoint = open_endpoint(settings.reader, settings.reader_model, settings.timeout_seconds)
    answers = StoredAnswers(folder / ANSWER_FILE)
    return ReaderSettings(endpoint, answers, settings.passages, settings.parallel)


def _names(systems: Sequence[str], find_model: Callable[[str], str]) -> list[SystemName]:
    if not systems:
        raise BadRecipe("there is no system to measure; name a model, bm25, or --index FOLDER")
    return [name.with_models(find_model) for name in parse_systems(systems)]


def _results(
    names: Sequence[SystemName],
    answered_set: AnsweredSet,
    reader: ReaderSettings | None,
    tell: Callable[[str], None],
) -> list[RagResult]:
    opener = SystemOpener(answered_set.corpus)
    results = []
    for number, name in enumerate(names):
        tell(f"measuring {name}")
        results.append(measure_rag(opener.open(name), answered_set, reader))
        opener.close(names[number + 1 :])
    return results
