"""Suggestions for a mistyped word."""

from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher, get_close_matches


def nearest(word: str, candidates: Iterable[str], likeness: float = 0.6) -> list[str]:
    """Returns at most three candidates that are most similar to `word`, best first.

    Their similarity must be at least `likeness` (0 to 1).

    >>> nearest("learning_rat", ["learning_rate", "head_learning_rate", "epochs"])
    ['learning_rate']
    """
    matches = get_close_matches(word, sorted(candidates), n=3, cutoff=likeness)
    ratios = [SequenceMatcher(None, match, word).ratio() for match in matches]
    return [match for match, ratio in zip(matches, ratios, strict=True) if ratio > ratios[0] - 0.1]


def question(candidates: Sequence[str]) -> str:
    """Returns `; did you mean a or b?`, or an empty text without candidates."""
    return f"; did you mean {' or '.join(candidates)}?" if candidates else ""
