"""Documents that models have encoded: of the next corpus, only new ones are."""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from trainer.models.encoder import VectorEncoder
from trainer.retrieval.encoding.encode import encode_documents
from trainer.strategies.devices import Precision
from trainer.vectors.vectors import Vectors


@dataclass
class _Store:
    """The documents that one model has encoded."""

    rows: dict[str, int] = field(default_factory=dict)
    """The row of each text."""
    parts: list[Vectors] = field(default_factory=list)
    """The vectors, row after row."""
    seconds: float = 0.0
    """The time that all of them took together."""


class EncodedDocuments:
    """The vectors of documents, by model. They stay in memory until they are forgotten."""

    def __init__(self) -> None:
        self._stores: dict[str, _Store] = {}

    def vectors(
        self, model: str, encoder: VectorEncoder, texts: Sequence[str], precision: Precision
    ) -> tuple[Vectors, float]:
        """Returns the vectors of these texts, in the form for search, and the seconds they took.

        A text that the model encoded before is not encoded again; its seconds are those of then.
        """
        store = self._stores.setdefault(model, _Store())
        start = time.monotonic()
        if new_texts := [text for text in dict.fromkeys(texts) if text not in store.rows]:
            store.parts.append(encode_documents(encoder, new_texts, precision=precision))
            store.rows |= {text: len(store.rows) + row for row, text in enumerate(new_texts)}
        store.seconds += time.monotonic() - start
        vectors = store.parts[0]
        if len(store.parts) > 1:
            vectors = encoder.vectors.join(iter(store.parts), len(store.rows), encoder.dimensions)
        rows = np.array([store.rows[text] for text in texts], np.int64)
        if not np.array_equal(rows, np.arange(len(store.rows))):
            vectors = vectors.select(rows)
        return vectors, store.seconds * len(set(texts)) / len(store.rows)

    def forget_others(self, models: Collection[str]) -> None:
        """Forgets the vectors of all models but these."""
        self._stores = {model: store for model, store in self._stores.items() if model in models}
