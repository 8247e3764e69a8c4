"""When two texts say the same: the normal form, word sets, and a quick search for near-identical
ones.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from math import ceil

_WORD = re.compile(r"\w+")
_ARTICLES = frozenset({"a", "an", "the"})


def normal_form(text: str) -> str:
    """The text without case, punctuation, compatibility forms and runs of white space; texts with
    none of the rest keep themselves.

    >>> normal_form("  Delete the disk: 'A-1'! ")
    'delete the disk a 1'
    >>> normal_form("?!")
    '?!'
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(_WORD.findall(folded)) or folded.strip()


def word_set(text: str) -> frozenset[str]:
    """The distinct words of a text, articles left out.

    >>> sorted(word_set("Show the details of a disk."))
    ['details', 'disk', 'of', 'show']
    """
    words = frozenset(normal_form(text).split())
    return words - _ARTICLES or words


def near_identical(
    texts: Iterable[str], others: Iterable[str], overlap: float = 0.9
) -> list[tuple[int, str]]:
    """For each of `texts` that is near-identical to one of `others`: its position and that other
    text.

    Near-identical: the word sets share at least `overlap` of their union (Jaccard). Only texts that
    share one of their rarest words are compared (prefix filtering, Chaudhuri et al. 2006): quick
    for many texts, and none is missed. Only `others` are held in memory.

    >>> near_identical(["Create a disk", "Delete disk"], ["create disk!", "Show disk"])
    [(0, 'create disk!')]
    """
    other_sets = {word_set(other): other for other in others}
    frequency = Counter(word for words in other_sets for word in words)

    def rarest(words: frozenset[str]) -> list[str]:
        ordered = sorted(words, key=lambda word: (frequency[word], word))
        return ordered[: len(words) - ceil(overlap * len(words) - 1e-9) + 1]

    by_word: dict[str, list[frozenset[str]]] = defaultdict(list)
    for words in other_sets:
        for word in rarest(words):
            by_word[word].append(words)
    found = []
    for position, words in enumerate(map(word_set, texts)):
        candidates = (other for word in rarest(words) for other in by_word.get(word, ()))
        twin = next(
            (
                other
                for other in candidates
                if len(words & other) >= overlap * len(words | other) - 1e-9
            ),
            None,
        )
        if twin is not None:
            found.append((position, other_sets[twin]))
    return found
