"""Candidates for pairs: what a passage gives as a query, and what is taken out of it for that."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trainer.batch import identity
from trainer.data.near_duplicates import near_identical_pairs, normal_form
from trainer.data.pairs.passages import Passage, title_of
from trainer.data.readers.beir import QUERIES_OF_USERS
from trainer.data.splits import connected_groups

KINDS = {
    "heading": "a title or heading, for its section",
    "sentence": "a sentence, for the passage that it was taken out of",
    "definition": "a term, for the passage that defines it",
    "docstring": "the first sentence of a docstring, for the code",
    "resolution": "the question of a ticket, for its resolution",
    "thread": "the question of a ticket or chat, for the replies",
    "question": "a question that an endpoint wrote, for its passage",
}
"""The kinds of pairs, each with what its query is."""
_KINDS_THAT_REPEAT = QUERIES_OF_USERS | {"question"}
MIN_PASSAGE_WORDS = 5
_HEADING_WORDS = range(2, 21)
_SENTENCE_WORDS = range(4, 41)
_MIN_QUERY_WORDS = 2
_DEFINITION = re.compile(
    r"(?:An?\s+|The\s+)?(?P<term>(?:[\w'/.+-]+\s){0,3}[\w'/.+-]+)(?:\s\([^)]{1,40}\))?,?\s"
    r"(?:(?:is|are)\s(?:an?|the|any|one\sof|each)\s|refers?\sto\s|stands?\sfor\s|means\s)"
)
_NO_TERM = """
    above all also and another any are as at be been below both but by can could default did do does
    each every first for had has have he her here his how i if in is it its last many may means
    might most must new next not of on one only or other our result second she should some such
    than that the their then there these they this those to value was we were what when where which
    who whom whose why will with would you your
"""
"""Words of which one shows that the words before "is a" are no term."""


@dataclass(frozen=True)
class Candidate:
    """A query for a passage."""

    kind: str
    query: str
    passage: Passage
    headings: int = 0
    """Number of last headings that are the query, and no longer title of the passage."""
    sentence: str = ""
    """The sentence that is the query, and no longer in the passage."""


def find_candidates(
    passages: Sequence[Passage], kinds: Iterable[str], questions: Mapping[str, Sequence[str]]
) -> tuple[list[Candidate], Counter[str]]:
    """Returns the candidates of these kinds, and what was set aside: reason to count.

    `questions` are those that an endpoint wrote, by the key of the passage. Nothing is taken out of
    a passage that has one.
    """
    reasons: Counter[str] = Counter()
    usable = [passage for passage in passages if _is_usable(passage)]
    if short := len(passages) - len(usable):
        reasons[f"passages of fewer than {MIN_PASSAGE_WORDS} words, without a pair"] = short
    whole_passages = [passage for passage in usable if passage.key not in questions]
    definitions = list(_definitions(usable)) if "definition" in kinds else []
    defining_passages = {candidate.passage.key for candidate in definitions}
    by_kind: dict[str, Iterable[Candidate]] = {
        "heading": _headings(whole_passages, reasons),
        "sentence": _sentences(
            [passage for passage in whole_passages if passage.key not in defining_passages],
            reasons,
        ),
        "definition": definitions,
        "question": (
            Candidate("question", query, passage)
            for passage in usable
            for query in questions.get(passage.key, ())
        ),
    }
    candidates = [
        candidate
        for kind in KINDS
        if kind in kinds
        for candidate in (by_kind[kind] if kind in by_kind else _known_pairs(usable, kind, reasons))
    ]
    return _without_near_duplicates(candidates, reasons), reasons


def _is_usable(passage: Passage) -> bool:
    return len(passage.text.split()) >= MIN_PASSAGE_WORDS


def _known_pairs(
    passages: Iterable[Passage], kind: str, reasons: Counter[str]
) -> Iterator[Candidate]:
    for passage in passages:
        pair = passage.known_pair
        if pair is None or pair.kind != kind:
            continue
        if len(pair.query.split()) >= _MIN_QUERY_WORDS:
            yield Candidate(kind, pair.query, passage)
        else:
            name = (
                "functions without a docstring"
                if kind == "docstring"
                else "tickets without a question"
            )
            reasons[f"{name} of at least {_MIN_QUERY_WORDS} words"] += 1


def _headings(passages: Sequence[Passage], reasons: Counter[str]) -> Iterator[Candidate]:
    """Yields the shortest end of each heading path that no other section has."""
    first_passages = [passage for passage in passages if passage.is_first and passage.headings]
    ends = Counter(
        normal_form(title_of(passage.headings[-length:]))
        for passage in first_passages
        for length in range(1, len(passage.headings) + 1)
    )
    for passage in first_passages:
        for length in range(1, len(passage.headings) + 1):
            query = title_of(passage.headings[-length:])
            if len(query.split()) in _HEADING_WORDS and ends[normal_form(query)] == 1:
                yield Candidate("heading", query, passage, headings=length)
                break
        else:
            reasons["headings that are too short, too long, or of several sections"] += 1


def _sentences(passages: Sequence[Passage], reasons: Counter[str]) -> Iterator[Candidate]:
    """Yields a sentence per passage (inverse cloze task, Lee et al. 2019), chosen by hash.

    A sentence that occurs several times says nothing about its passage and is not chosen.
    """
    count = Counter(normal_form(text) for passage in passages for text in passage.sentences)
    for passage in passages:
        words = len(passage.text.split())
        choices = [
            sentence
            for sentence in passage.sentences
            if (size := len(sentence.split())) in _SENTENCE_WORDS
            and words - size >= MIN_PASSAGE_WORDS
            and count[normal_form(sentence)] == 1
        ]
        if choices:
            sentence = min(choices, key=lambda text: (identity(text), text))
            yield Candidate("sentence", sentence, passage, sentence=sentence)
        elif passage.known_pair is None:
            reasons["passages without a sentence that can be taken out"] += 1


def _definitions(passages: Iterable[Passage]) -> Iterator[Candidate]:
    no_term = set(_NO_TERM.split())
    for passage in passages:
        for paragraph in passage.paragraphs:
            if not paragraph.is_prose:
                continue
            match = _DEFINITION.match(paragraph.text)
            term = paragraph.term or (match["term"] if match else "")
            words = normal_form(term).split()
            if len("".join(words)) > 2 and len(words) <= 6 and not set(words) & no_term:
                yield Candidate("definition", term, passage)
                break


def _without_near_duplicates(
    candidates: Sequence[Candidate], reasons: Counter[str]
) -> list[Candidate]:
    """Returns the candidates whose queries differ.

    Of near-identical queries for one passage, or which people wrote, the first one remains. Others
    are all left out: they do not say which passage they mean.
    """
    links = near_identical_pairs(candidate.query for candidate in candidates)
    links += [(number, number) for number in range(len(candidates))]
    groups: dict[int, list[int]] = defaultdict(list)
    numbers = connected_groups(*np.array(links[::-1], np.int64).reshape(-1, 2).T)
    for number, group in enumerate(numbers[: len(candidates)][::-1].tolist()):
        groups[group].append(number)
    left_out: set[int] = set()
    for members in groups.values():
        passages = {candidates[member].passage.key for member in members}
        is_clear = len(passages) == 1 or candidates[members[0]].kind in _KINDS_THAT_REPEAT
        left_out.update(members[1:] if is_clear else members if len(members) > 1 else ())
    for number in left_out:
        reasons[f"{candidates[number].kind} pairs whose query is near-identical to another"] += 1
    return [item for number, item in enumerate(candidates) if number not in left_out]
