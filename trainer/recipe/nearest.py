"""Which words a mistyped word was likely meant to be."""

from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher, get_close_matches


def nearest(word: str, candidates: Iterable[str], likeness: float = 0.6) -> list[str]:
    """The candidates that are most like `word`, at most three, best first. Candidates below the
    likeness (0 to 1) are left out.

    >>> nearest("learning_rat", ["learning_rate", "head_learning_rate", "epochs"])
    ['learning_rate']
    """
    matches = get_close_matches(word, sorted(candidates), n=3, cutoff=likeness)
    ratios = [SequenceMatcher(None, match, word).ratio() for match in matches]
    return [match for match, ratio in zip(matches, ratios, strict=True) if ratio > ratios[0] - 0.1]


def question(candidates: Sequence[str]) -> str:
    """`; did you mean a or b?`, or nothing where there is no candidate."""
    return f"; did you mean {' or '.join(candidates)}?" if candidates else ""
