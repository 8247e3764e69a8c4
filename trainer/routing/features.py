"""What a router knows of a query before any search: numbers from its text, and how rare its words
are.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Float64, Int64

from trainer.batch import identity
from trainer.progress import count_items

FEATURES = (
    "words",
    "characters per word",
    "share of digits",
    "share of symbols",
    "share of capital letters",
    "question mark",
    "rarity of the most common word",
    "mean rarity",
    "rarity of the rarest word",
    "share of unknown words",
)
"""What the numbers of a query are, in their order."""

_WORD = re.compile(r"\w\w+")


@dataclass(frozen=True, eq=False)
class WordCounts:
    """In how many documents of a corpus each word is. Words are stored as hashes."""

    documents: int
    hashes: Int64[np.ndarray, " word"]
    """The `identity` of each word, ascending."""
    counts: Int64[np.ndarray, " word"]

    @classmethod
    def of(cls, texts: Sequence[str]) -> Self:
        """Counts the words of documents."""
        counter: Counter[str] = Counter()
        for text in count_items(texts, "counting words", "documents", total=len(texts)):
            counter.update(set(_words(text)))
        hashes = np.fromiter(map(identity, counter), np.int64, len(counter))
        counts = np.fromiter(counter.values(), np.int64, len(counter))
        order = np.argsort(hashes)
        return cls(len(texts), hashes[order], counts[order])

    def documents_with(self, words: Sequence[str]) -> Int64[np.ndarray, " word"]:
        """Returns the number of documents that have each word."""
        hashes = np.fromiter(map(identity, words), np.int64, len(words))
        rows = np.searchsorted(self.hashes, hashes).clip(max=max(0, len(self.hashes) - 1))
        if not len(self.hashes):
            return np.zeros(len(words), np.int64)
        return np.where(self.hashes[rows] == hashes, self.counts[rows], 0)

    def has_word_of(self, query: str) -> bool:
        """Returns True if BM25 finds a document for a query: one that has a word of it, which is no
        stop word.
        """
        from bm25s.stopwords import STOPWORDS_EN

        words = [word for word in _words(query) if word not in STOPWORDS_EN]
        return bool(self.documents_with(words).any())


def query_features(
    queries: Iterable[str], words: WordCounts
) -> Float64[np.ndarray, "query feature"]:
    """Returns the `FEATURES` of queries.

    The rarity of a word is log(N / n) / log(N), if n of the N documents have it: 0 if all have it,
    1 if one has it or none. A query without a word has the rarity 1.

    >>> words = WordCounts.of(["delete a disk", "list a disk"])
    >>> query_features(["Delete a disk?"], words).round(2).tolist()
    [[1.1, 5.0, 0.0, 0.07, 0.07, 1.0, 0.0, 0.5, 1.0, 0.0]]
    """
    return np.array([_features(query, words) for query in queries]).reshape(-1, len(FEATURES))


def _features(query: str, counts: WordCounts) -> list[float]:
    words = _words(query)
    documents = counts.documents_with(words) if words else np.ones(1)
    rarities = 1 - np.log(documents.clip(min=1)) / np.log(max(counts.documents, 2))
    length = max(1, len(query))
    return [
        float(np.log1p(len(words))),
        sum(map(len, words)) / max(1, len(words)),
        sum(map(str.isdigit, query)) / length,
        sum(not (character.isalnum() or character.isspace()) for character in query) / length,
        sum(map(str.isupper, query)) / length,
        float(query.rstrip().endswith(("?", "？", "؟"))),
        float(rarities.min()),
        float(rarities.mean()),
        float(rarities.max()),
        float((documents == 0).mean()),
    ]


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())
