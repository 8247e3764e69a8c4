"""Measures what the passages that a system finds do for the answers of a reader."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Float

from trainer.endpoint.answers import StoredAnswers, ask_all
from trainer.endpoint.client import ChatAnswer, ChatEndpoint
from trainer.evaluation.rag.answered_set import AnsweredSet, Question
from trainer.evaluation.rag.squad import answer_form, exact_match, has_answer, token_f1
from trainer.evaluation.significance import PairedTest, paired_test
from trainer.evaluation.systems.system import System
from trainer.retrieval.fusion import rank_documents

PROMPT = """\
Answer the question with a few words of the passages, without a sentence around them. If the
passages do not say it, answer: unknown.

{passages}

Question: {question}
Answer:"""
CUTS = (1, 5, 20)
"""Answer recall is measured among so many first passages."""
_MAX_ANSWER_TOKENS = 64


@dataclass(frozen=True)
class ReaderSettings:
    """How a reader is asked."""

    endpoint: ChatEndpoint
    stored_answers: StoredAnswers
    passages: int = 5
    """Number of passages in a prompt."""
    parallel: int = 4


@dataclass(frozen=True)
class QuestionResult:
    """What a system and the reader made of one question."""

    question: Question
    documents: tuple[str, ...]
    """Ids of the first passages, best first."""
    first_with_answer: int | None
    """Position of the first passage that contains an answer, from 0; None without one."""
    answer: ChatAnswer | None = None
    """The reader's; None without a reader."""

    @property
    def values(self) -> dict[str, float]:
        """The measures of this question. Those of the answer are missing without one."""
        first = self.first_with_answer
        values = {f"answer recall@{cut}": float(first is not None and first < cut) for cut in CUTS}
        if self.answer is not None and not self.answer.failure:
            text, answers = self.answer.text, self.question.answers
            values |= {
                "exact match": exact_match(text, answers),
                "token F1": token_f1(text, answers),
            }
        return values


@dataclass(frozen=True)
class RagResult:
    """One system on all questions."""

    system: str
    questions: Sequence[QuestionResult] = field(repr=False)

    @cached_property
    def measures(self) -> dict[str, Float[np.ndarray, " question"]]:
        """Each measure of all questions; NaN for a question without an answer of the reader."""
        rows = [question.values for question in self.questions]
        names = dict.fromkeys(name for row in rows for name in row)
        return {name: np.array([row.get(name, np.nan) for row in rows]) for name in names}

    @property
    def answers(self) -> list[ChatAnswer]:
        """The answers of the reader, failures too."""
        return [item.answer for item in self.questions if item.answer is not None]


def measure_rag(
    system: System, answered_set: AnsweredSet, reader: ReaderSettings | None
) -> RagResult:
    """Searches all questions, looks for their answers in the passages, and asks the reader."""
    questions = answered_set.questions
    depth = max(*CUTS, reader.passages if reader else 0)
    run = system.search({question.key: question.text for question in questions}, depth)
    text_of = dict(zip(answered_set.corpus.ids, answered_set.corpus.texts, strict=True))
    forms: dict[str, str] = {}
    results = []
    for question in questions:
        documents = tuple(
            document for document, _ in rank_documents(run.get(question.key, {}))[:depth]
        )
        for document in documents:
            if document not in forms:
                forms[document] = answer_form(text_of[document])
        first = next(
            (
                position
                for position, document in enumerate(documents)
                if has_answer(forms[document], question.answers)
            ),
            None,
        )
        results.append(QuestionResult(question, documents, first))
    if reader is None:
        return RagResult(system.name, results)
    prompts = [_prompt(result, text_of, reader.passages) for result in results]
    answers = ask_all(
        reader.endpoint, prompts, reader.stored_answers, reader.parallel, _MAX_ANSWER_TOKENS
    )
    return RagResult(
        system.name,
        [
            QuestionResult(item.question, item.documents, item.first_with_answer, answer)
            for item, answer in zip(results, answers, strict=True)
        ],
    )


def compare_answers(baseline: RagResult, result: RagResult) -> dict[str, PairedTest]:
    """Returns a paired test per measure, on the questions that have it with both systems."""
    tests = {}
    for name in baseline.measures.keys() & result.measures.keys():
        pair = np.stack([baseline.measures[name], result.measures[name]])
        complete = pair[:, ~np.isnan(pair).any(0)]
        if complete.size:
            tests[name] = paired_test(complete[0], complete[1])
    return {name: tests[name] for name in baseline.measures if name in tests}


def _prompt(result: QuestionResult, text_of: Mapping[str, str], passages: int) -> str:
    texts = [text_of[document] for document in result.documents[:passages]]
    numbered_texts = "\n\n".join(f"[{number}] {text}" for number, text in enumerate(texts, 1))
    return PROMPT.format(passages=numbered_texts or "(none)", question=result.question.text)
