"""Normal forms and word sets of texts, and a quick search for near-identical texts."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
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


class _WordSets:
    """Sets of words, of which it finds those that share at least `overlap` of the union with
    another set (Jaccard).

    Only sets that share one of their rarest words are compared (prefix filtering, Chaudhuri et al.
    2006): this is quick for many sets, and misses none.
    """

    def __init__(self, frequency: Mapping[str, int], overlap: float) -> None:
        self._frequency, self._overlap = frequency, overlap
        self._sets_by_word: dict[str, list[frozenset[str]]] = defaultdict(list)

    def add(self, words: frozenset[str]) -> None:
        """Adds a set, once."""
        for word in self._rarest_words(words):
            self._sets_by_word[word].append(words)

    def matches(self, words: frozenset[str]) -> Iterator[frozenset[str]]:
        """Yields the near-identical sets; one may come several times."""
        for word in self._rarest_words(words):
            for candidate in self._sets_by_word.get(word, ()):
                if len(words & candidate) >= self._overlap * len(words | candidate) - 1e-9:
                    yield candidate

    def _rarest_words(self, words: frozenset[str]) -> list[str]:
        by_frequency = sorted(words, key=lambda word: (self._frequency.get(word, 0), word))
        return by_frequency[: len(words) - ceil(self._overlap * len(words) - 1e-9) + 1]


def find_near_identical(
    texts: Iterable[str], references: Iterable[str], overlap: float = 0.9
) -> list[tuple[int, str]]:
    """Finds texts that are near-identical to a reference: (position of the text, the reference).

    Two texts are near-identical when their word sets share at least `overlap` of their union
    (Jaccard). Only the references are held in memory.

    >>> find_near_identical(["Create a disk", "Delete disk"], ["create disk!", "Show disk"])
    [(0, 'create disk!')]
    """
    reference_of = {word_set(reference): reference for reference in references}
    word_sets = _WordSets(Counter(word for words in reference_of for word in words), overlap)
    for words in reference_of:
        word_sets.add(words)
    matches = []
    for position, words in enumerate(map(word_set, texts)):
        if (match := next(word_sets.matches(words), None)) is not None:
            matches.append((position, reference_of[match]))
    return matches


def near_identical_pairs(texts: Iterable[str], overlap: float = 0.9) -> list[tuple[int, int]]:
    """Returns positions of near-identical texts, at most one pair per text: those that join texts
    into one group, directly or through other texts.

    >>> near_identical_pairs(["Create a disk", "Delete disk", "create disk!"])
    [(0, 2)]
    """
    group: dict[int, int] = {}
    sets = [word_set(text) for text in texts]
    word_sets = _WordSets(Counter(word for words in set(sets) for word in words), overlap)
    first_position: dict[frozenset[str], int] = {}
    pairs = []
    for position, words in enumerate(sets):
        if words in first_position:
            pairs.append((first_position[words], position))
            continue
        for match in word_sets.matches(words):
            match_root = _root(group, first_position[match])
            root = _root(group, position)
            if match_root != root:
                group[match_root] = root
                pairs.append((first_position[match], position))
        first_position[words] = position
        word_sets.add(words)
    return pairs


def _root(group: dict[int, int], member: int) -> int:
    """Returns the root of a member's group, and makes its way there shorter (Tarjan 1975)."""
    root = member
    while root in group:
        root = group[root]
    while member in group:
        group[member], member = root, group[member]
    return root
