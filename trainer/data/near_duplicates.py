"""Normal forms and word sets of texts, and a quick search for near-identical texts."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from math import ceil

_WORD = re.compile(r"\w+")
_ARTICLES = frozenset({"a", "an", "the"})


def normal_form(text: str) -> str:
    """Returns the text without case, punctuation, compatibility forms and runs of white space.

    A text that consists only of punctuation keeps it.

    >>> normal_form("  Delete the disk: 'A-1'! ")
    'delete the disk a 1'
    >>> normal_form("?!")
    '?!'
    """
    lower_case = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(_WORD.findall(lower_case)) or lower_case.strip()


def word_set(text: str) -> frozenset[str]:
    """Returns the distinct words of a text, without articles.

    >>> sorted(word_set("Show the details of a disk."))
    ['details', 'disk', 'of', 'show']
    """
    words = frozenset(normal_form(text).split())
    return words - _ARTICLES or words


def find_near_identical(
    texts: Iterable[str], references: Iterable[str], overlap: float = 0.9
) -> list[tuple[int, str]]:
    """Finds texts that are near-identical to a reference: (position of the text, the reference).

    Two texts are near-identical when their word sets share at least `overlap` of their union
    (Jaccard). Only texts that share one of their rarest words are compared (prefix filtering,
    Chaudhuri et al. 2006): this is quick for many texts, and misses none. Only the references are
    held in memory.

    >>> find_near_identical(["Create a disk", "Delete disk"], ["create disk!", "Show disk"])
    [(0, 'create disk!')]
    """
    reference_of = {word_set(reference): reference for reference in references}
    frequency = Counter(word for words in reference_of for word in words)

    def rarest_words(words: frozenset[str]) -> list[str]:
        by_frequency = sorted(words, key=lambda word: (frequency[word], word))
        return by_frequency[: len(words) - ceil(overlap * len(words) - 1e-9) + 1]

    sets_by_word: dict[str, list[frozenset[str]]] = defaultdict(list)
    for words in reference_of:
        for word in rarest_words(words):
            sets_by_word[word].append(words)
    matches = []
    for position, words in enumerate(map(word_set, texts)):
        candidates = (
            candidate for word in rarest_words(words) for candidate in sets_by_word.get(word, ())
        )
        for candidate in candidates:
            if len(words & candidate) >= overlap * len(words | candidate) - 1e-9:
                matches.append((position, reference_of[candidate]))
                break
    return matches
