"""The result of `nearfar rag` as lines of text, and as a file."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from trainer.endpoint.answers import answer_summary
from trainer.evaluation.rag.measure import QuestionResult, RagResult, compare_answers
from trainer.evaluation.significance import bootstrap_interval, holm
from trainer.evaluation.systems.short_names import short_name
from trainer.storage.visible import visible

RESULT_FILE = "rag.json"
_NAME_CHARACTERS, _TEXT_CHARACTERS = 32, 65
"""The number of characters of a name and of a text, so that its line fits on 80 columns."""


def result_lines(results: Sequence[RagResult]) -> Iterator[str]:
    """Yields the measures of each system with 95 % intervals, the tokens spent, and paired tests of
    each later system against the first, with Holm's correction over all of them.
    """
    first = results[0]
    tests = [compare_answers(first, result) for result in results]
    places = [(place, name) for place in range(1, len(tests)) for name in tests[place]]
    corrections = holm([tests[place][name].p_value for place, name in places])
    p_values = dict(zip(places, corrections, strict=True))
    if len(results) > 1:
        name = short_name(first.system, _NAME_CHARACTERS)
        yield f"each system, and below it the difference to {name}"
    names = list(dict.fromkeys(name for result in results for name in result.measures))
    for name in names:
        yield name
        for place, result in enumerate(results):
            yield f"  {short_name(result.system, _NAME_CHARACTERS)}: {_mean(result, name)}"
            if p_value := p_values.get((place, name)):
                test = tests[place][name]
                yield (
                    f"    {test.difference:+.3f} [{test.low:+.3f}, {test.high:+.3f}],"
                    f" p = {p_value:.4f};"
                    f" {test.better:,} better, {test.equal:,} equal, {test.worse:,} worse"
                )
    if len(places) > 1:
        yield f"each p is corrected for {len(places)} tests by Holm's method"
    for result in results:
        if result.answers:
            yield f"{short_name(result.system, _NAME_CHARACTERS)}: {answer_summary(result.answers)}"


def wrong_answers(result: RagResult, texts: Mapping[str, str], limit: int) -> Iterator[str]:
    """Yields the questions that the reader did not answer rightly, with what was missing.

    Without a reader, these are the questions whose first passages have no answer.
    """
    wrong = [item for item in result.questions if _is_wrong(item)]
    verb = "answered wrongly" if result.answers else "without the answer in the first 5 passages"
    count = f"{len(wrong):,} of {len(result.questions):,} questions"
    yield f"{short_name(result.system, _NAME_CHARACTERS)}:"
    yield f"{count} {verb}"
    for item in wrong[:limit]:
        yield f"  {visible(item.question.text, 200)}"
        answers = visible(" | ".join(item.question.answers), _TEXT_CHARACTERS)
        remark = ""
        if item.answer is not None:
            remark = f"; said: {visible(item.answer.text or item.answer.failure, 60)}"
        yield f"    right: {answers}{remark}"
        yield f"    {_reason(item)}"
        if not _has_passage(item) and (missing := _missing(item)):
            yield f"    missing: {visible(texts[missing[0]], _TEXT_CHARACTERS)}"


def to_json(
    source: str, results: Sequence[RagResult], reader: str | None, passages: int
) -> dict[str, Any]:
    """Returns all measurements as values for JSON."""
    return {
        "format": 1,
        "data": source,
        "reader": reader,
        "passages": passages,
        "systems": [
            {
                "name": result.system,
                "means": {name: float(np.nanmean(v)) for name, v in result.measures.items()},
                "questions": [
                    {
                        "id": item.question.key,
                        "question": item.question.text,
                        "answers": list(item.question.answers),
                        "documents": list(item.documents),
                        "missing": _missing(item),
                        "said": item.answer.text if item.answer else None,
                        "failure": item.answer.failure if item.answer else None,
                        "prompt_tokens": item.answer.prompt_tokens if item.answer else None,
                        "answer_tokens": item.answer.answer_tokens if item.answer else None,
                        **item.values,
                    }
                    for item in result.questions
                ],
            }
            for result in results
        ],
    }


def _mean(result: RagResult, name: str) -> str:
    values = result.measures.get(name, np.empty(0))
    values = values[~np.isnan(values)]
    if not len(values):
        return "none"
    low, high = bootstrap_interval(values)
    count = "" if len(values) == len(result.questions) else f" on {len(values):,} questions"
    return f"{values.mean():.3f} [{low:.3f}, {high:.3f}]{count}"


def _is_wrong(item: QuestionResult) -> bool:
    return item.values.get("exact match", item.values["answer recall@5"]) == 0


def _missing(item: QuestionResult) -> list[str]:
    """Returns the documents that answer the question and were not among the first five."""
    return sorted(item.question.documents - set(item.documents[:5]))


def _reason(item: QuestionResult) -> str:
    position = item.first_with_answer
    if position is None:
        return "the answer is in none of the first passages"
    if _has_passage(item):
        return f"passage {position + 1} has the answer"
    return f"the answer is in passage {position + 1} only"


def _has_passage(item: QuestionResult) -> bool:
    return item.first_with_answer is not None and item.first_with_answer < 5
