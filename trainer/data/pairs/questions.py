"""Questions about passages that a language model writes, filtered by a round trip."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.data.pairs.passages import Passage, title_of
from trainer.data.pairs.write import WrittenQuestions
from trainer.data.prepare.beir_folder import ANSWERS
from trainer.data.splits import in_hash_order
from trainer.endpoint.answers import StoredAnswers, answer_summary, ask_all
from trainer.endpoint.client import ChatEndpoint, open_endpoint
from trainer.errors import BadEndpoint

PROMPT = """\
Below is a passage of a document. Write {count} different questions that a person could type into
a search engine, and that the passage answers. The person has not seen the passage: use other
words than it where you can, and do not mention it. Write one question per line in the language
of the passage, and nothing else.

{passage}"""
FirstDocuments = Callable[[Sequence[str], Sequence[str], int], Sequence[Sequence[int]]]
"""Returns the positions of the first k documents of each query: of (documents, queries, k)."""
_LIST_MARK = re.compile(r"^(?:[-*•]|\(?\d{1,2}[.):]|Q\d*[:.])\s*", re.IGNORECASE)
_MENTIONS_PASSAGE = re.compile(
    r"\b(?:passage|text above|this (?:text|document|article|section|paragraph))\b", re.IGNORECASE
)
_QUESTION_WORDS = range(3, 41)


@dataclass(frozen=True)
class QuestionRules:
    """Which questions are asked for, and which are used."""

    per_passage: int = 2
    max_passages: int | None = None
    """The largest number of passages, chosen by hash; None for all."""
    round_trip: int = 10
    """A question must find its passage among so many first ones."""
    parallel: int = 4
    """Number of prompts that are asked at a time."""


def question_writer(
    url: str,
    model: str | None,
    folder: Path,
    timeout_seconds: float,
    rules: QuestionRules,
    search: FirstDocuments,
) -> Callable[[Sequence[Passage]], WrittenQuestions]:
    """Returns `write_questions` of an endpoint, whose key is in NEARFAR_ENDPOINT_KEY.

    The answers are stored in `folder`. Raises BadEndpoint.
    """
    endpoint = open_endpoint(url, model, timeout_seconds)

    def write(passages: Sequence[Passage]) -> WrittenQuestions:
        return write_questions(passages, endpoint, StoredAnswers(folder / ANSWERS), search, rules)

    return write


def write_questions(
    passages: Sequence[Passage],
    endpoint: ChatEndpoint,
    stored_answers: StoredAnswers,
    search: FirstDocuments,
    rules: QuestionRules = QuestionRules(),
) -> WrittenQuestions:
    """Returns questions about passages that have no query of their author.

    A question is used if `search` finds its passage again among all passages, within the first
    `rules.round_trip` (Alberti et al. 2019 filter by such a round trip). Raises BadEndpoint if the
    endpoint does not answer, or if no question can be used.
    """
    open_passages = [
        passage
        for passage in passages
        if passage.known_pair is None or not passage.known_pair.query
    ]
    order = in_hash_order([passage.key for passage in open_passages])[: rules.max_passages]
    selection = [open_passages[position] for position in sorted(order)]
    prompts = [
        PROMPT.format(count=rules.per_passage, passage=_full_text(passage)) for passage in selection
    ]
    answers = ask_all(endpoint, prompts, stored_answers, rules.parallel)
    reasons: Counter[str] = Counter()
    drafts: list[tuple[Passage, str]] = []
    for passage, answer in zip(selection, answers, strict=True):
        lines = questions_of(answer.text)[: rules.per_passage]
        drafts += [(passage, line) for line in lines]
        if not lines and not answer.failure:
            reasons["answers of the endpoint without a question"] += 1
    if prompts and not drafts:
        raise BadEndpoint(
            f"no answer of {endpoint.model} has a question; the first answer is"
            f" {answers[0].text[:100]!r}. Take a model that follows instructions"
        )
    by_passage = _after_round_trip(passages, drafts, search, rules.round_trip, reasons)
    return WrittenQuestions(
        by_passage,
        reasons,
        [answer_summary(answers)],
        stored_answers.lines(),
        {"questions_by": endpoint.model},
    )


def questions_of(text: str) -> list[str]:
    r"""Returns the lines of an answer that are questions about a passage, without list marks.

    >>> questions_of("Here are two:\n1. How do I grow a disk?\n- What is in this passage?\n")
    ['How do I grow a disk?']
    """
    lines = [_LIST_MARK.sub("", line.strip()).strip(" \"'*") for line in text.splitlines()]
    return [
        line
        for line in dict.fromkeys(lines)
        if len(line.split()) in _QUESTION_WORDS
        and line.endswith(("?", "？", "؟"))
        and not _MENTIONS_PASSAGE.search(line)
    ]


def _after_round_trip(
    passages: Sequence[Passage],
    drafts: Sequence[tuple[Passage, str]],
    search: FirstDocuments,
    depth: int,
    reasons: Counter[str],
) -> dict[str, list[str]]:
    """Returns the questions of each passage that find it among the first `depth` passages."""
    position = {passage.key: number for number, passage in enumerate(passages)}
    documents = [_full_text(passage) for passage in passages]
    first = search(documents, [question for _, question in drafts], depth)
    questions: dict[str, list[str]] = {}
    for (passage, question), positions in zip(drafts, first, strict=True):
        if position[passage.key] in positions:
            questions.setdefault(passage.key, []).append(question)
        else:
            reasons[f"written questions that do not find their passage within {depth}"] += 1
    return questions


def _full_text(passage: Passage) -> str:
    title = title_of(passage.headings)
    return f"{title}\n{passage.text}" if title else passage.text
