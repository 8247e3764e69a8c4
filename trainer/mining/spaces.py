"""Queries and documents as vectors of one model, on disk in blocks: encoded once, by all ranks
together, and read block by block.
"""

from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64

from trainer.collectives import gather_texts, on_first_rank, rank
from trainer.mining.task import Task
from trainer.mining.texts import StoredTexts
from trainer.models.contracts.text import Role
from trainer.models.encoder import VectorEncoder
from trainer.progress import phase
from trainer.retrieval.encoding.encode import encode_documents, encode_queries
from trainer.strategies.devices import Precision
from trainer.vectors.vectors import TopK, Vectors

QUERIES_A_SHARD = 2048
"""Queries that are encoded, searched and filtered together. The same for any number of ranks, and
so is what comes out.
"""
_OPEN_BLOCKS = 256


class Space:
    """Where a model puts the task's texts, and how near they are to each other there."""

    def __init__(
        self,
        encoder: VectorEncoder,
        task: Task,
        folder: Path,
        micro_batch_tokens: int | None = None,
        precision: Precision = "fp32",
    ) -> None:
        self.encoder, self.task, self._folder = encoder, task, folder
        self._kind, self._block_size = encoder.vectors, encoder.vectors.TEXTS_PER_BLOCK
        self._micro_batch_tokens, self._precision = micro_batch_tokens, precision
        self._document_block = lru_cache(maxsize=_OPEN_BLOCKS)(
            lambda block: self._kind.load(folder, _name("document", block))
        )

    def encode_all(self) -> None:
        """Encodes what is not there yet. To be called on all ranks: they share out each block, and
        the first writes it.
        """
        on_first_rank(lambda: self._folder.mkdir(parents=True, exist_ok=True))
        self._encode("query", self.task.queries, QUERIES_A_SHARD)
        self._encode("document", self.task.documents, self._block_size)

    def _encode(self, role: Role, texts: StoredTexts, size: int) -> None:
        encode = encode_queries if role == "query" else encode_documents
        blocks = range(-(-len(texts) // size))
        numbers = [
            int(number)
            for number in gather_texts(
                [
                    str(block)
                    for block in blocks
                    if not self._kind.is_saved(self._folder, _name(role, block))
                ]
                if rank() == 0
                else []
            )
        ]
        count = sum(min(size, len(texts) - block * size) for block in numbers)
        with phase("encoding queries" if role == "query" else "encoding documents", count, "texts"):
            for block in numbers:
                part = texts.range(block * size, (block + 1) * size)
                vectors = encode(self.encoder, part, self._micro_batch_tokens, self._precision)
                on_first_rank(partial(vectors.save, self._folder, _name(role, block)))

    def _blocks(self) -> Iterator[tuple[int, Vectors]]:
        """First document and vectors of each block."""
        for block in range(-(-len(self.task.documents) // self._block_size)):
            yield block * self._block_size, self._document_block(block)

    def _queries(self, shard: int) -> Vectors:
        return self._kind.load(self._folder, _name("query", shard))

    def pair_scores(
        self, shard: int, queries: Int64[np.ndarray, " pair"], documents: Int64[np.ndarray, " pair"]
    ) -> Float32[np.ndarray, " pair"]:
        """The score of each pair of a query of the shard, counted from its first, and a document.
        Queries come in ascending order.
        """
        vectors, scores = self._queries(shard), np.empty(len(queries), np.float32)
        for first, block in self._blocks():
            own = np.flatnonzero((documents >= first) & (documents < first + self._block_size))
            if own.size:
                scores[own] = vectors.pair_scores(block, queries[own], documents[own] - first)
        return scores

    def nearest(self, shard: int, k: int) -> TopK:
        """Scores and numbers of the k nearest documents of each query of the shard, best first;
        minus infinity and -1 where there are fewer. A document without a vector is near to nothing.
        """
        search = self._queries(shard).search(k, self.encoder.device)
        for first, block in self._blocks():
            search.add(block, first)
        return search.best()


def _name(role: Role, block: int) -> str:
    return f"{role}-{block:06}"
