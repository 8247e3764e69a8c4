"""The documents of a corpus, which may stay on disk."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import overload


@dataclass(frozen=True)
class CorpusTexts:
    """The distinct texts of a corpus with their ids, such as columns mapped into memory."""

    ids: Sequence[str]
    texts: Sequence[str]

    @classmethod
    def of(cls, ids: Mapping[str, str]) -> "CorpusTexts":
        """Returns the corpus with the id of each text."""
        return cls(tuple(ids.values()), tuple(ids))

    def ids_of(self, texts: Iterable[str]) -> dict[str, str]:
        """Returns the id of each of these texts that is in the corpus."""
        distinct_texts = set(texts)
        return {
            text: key
            for text, key in zip(self.texts, self.ids, strict=True)
            if text in distinct_texts
        }


class JoinedTexts(Sequence[str]):
    """Two sequences of texts as one, without a copy.

    >>> texts = JoinedTexts(("a", "b"), ("c",))
    >>> len(texts), texts[2], texts[-3], texts[1:], list(texts)
    (3, 'c', 'a', ('b', 'c'), ['a', 'b', 'c'])
    """

    def __init__(self, first: Sequence[str], second: Sequence[str]) -> None:
        self._first, self._second = first, second

    def __len__(self) -> int:
        return len(self._first) + len(self._second)

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[str, ...]: ...
    def __getitem__(self, at: int | slice) -> str | tuple[str, ...]:
        numbers = range(len(self))[at]
        if isinstance(numbers, range):
            return tuple(self[number] for number in numbers)
        is_first = numbers < len(self._first)
        return self._first[numbers] if is_first else self._second[numbers - len(self._first)]

    def __iter__(self) -> Iterator[str]:
        return chain(self._first, self._second)
