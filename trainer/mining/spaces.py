"""Vectors of queries and documents by one model, in blocks on disk.

All ranks encode them together once, and read them block by block.
"""

from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64

from trainer.collectives import integers_of_first_rank, on_first_rank
from trainer.mining.task import Task
from trainer.mining.texts import StoredTexts
from trainer.models.contracts.text import Role
from trainer.models.encoder import VectorEncoder
from trainer.progress import phase
from trainer.retrieval.encoding.encode import encode_documents, encode_queries
from trainer.strategies.devices import Precision
from trainer.vectors.vectors import TopK, Vectors

QUERIES_PER_SHARD = 2048
"""The number of queries that are encoded, searched and filtered together.

It does not depend on the number of ranks, so the result does not either.
"""
_OPEN_BLOCKS = 256


class Space:
    """The vectors of the task's texts by one model, and scores between them."""

    def __init__(
        self,
        encoder: VectorEncoder,
        task: Task,
        folder: Path,
        micro_batch_tokens: int | None = None,
        precision: Precision = "fp32",
    ) -> None:
        self.encoder, self.task, self._folder = encoder, task, folder
        kind = self._kind = encoder.vectors
        self._block_size = kind.TEXTS_PER_BLOCK
        self._micro_batch_tokens, self._precision = micro_batch_tokens, precision
        # Without `self`, so that copies of the blocks on a GPU are freed together with the space.
        self._document_block = lru_cache(maxsize=_OPEN_BLOCKS)(
            lambda block: kind.load(folder, _name("document", block))
        )

    def encode_all(self) -> None:
        """Encodes the missing blocks.

        All ranks must call it: they share the texts of each block, and the first rank writes it.
        """
        on_first_rank(lambda: self._folder.mkdir(parents=True, exist_ok=True))
        self._encode("query", self.task.queries, QUERIES_PER_SHARD)
        self._encode("document", self.task.documents, self._block_size)

    def _encode(self, role: Role, texts: StoredTexts, size: int) -> None:
        encode = encode_queries if role == "query" else encode_documents
        blocks = range(-(-len(texts) // size))
        numbers = integers_of_first_rank(
            lambda: [
                block
                for block in blocks
                if not self._kind.is_saved(self._folder, _name(role, block))
            ]
        )
        count = sum(min(size, len(texts) - block * size) for block in numbers)
        with phase("encoding queries" if role == "query" else "encoding documents", count, "texts"):
            for block in numbers:
                part = texts.range(block * size, (block + 1) * size)
                vectors = encode(self.encoder, part, self._micro_batch_tokens, self._precision)
                on_first_rank(partial(vectors.save, self._folder, _name(role, block)))

    def _blocks(self) -> Iterator[tuple[int, Vectors]]:
        """Yields the first document and the vectors of each block."""
        for block in range(-(-len(self.task.documents) // self._block_size)):
            yield block * self._block_size, self._document_block(block)

    def _queries(self, shard: int) -> Vectors:
        return self._kind.load(self._folder, _name("query", shard))

    def pair_scores(
        self, shard: int, queries: Int64[np.ndarray, " pair"], documents: Int64[np.ndarray, " pair"]
    ) -> Float32[np.ndarray, " pair"]:
        """Returns the score of each pair of a query and a document.

        Queries are numbered within the shard and must ascend.
        """
        vectors, scores = self._queries(shard), np.empty(len(queries), np.float32)
        for first, block in self._blocks():
            in_block = np.flatnonzero((documents >= first) & (documents < first + self._block_size))
            if in_block.size:
                scores[in_block] = vectors.pair_scores(
                    block, queries[in_block], documents[in_block] - first
                )
        return scores

    def nearest(self, shard: int, k: int) -> TopK:
        """Returns scores and numbers of the k nearest documents per query of the shard, best first.

        Where there are fewer documents, they are minus infinity and -1. A document without a vector
        is never found.
        """
        search = self._queries(shard).search(k, self.encoder.device)
        for first, block in self._blocks():
            search.add(block, first)
        return search.best()


def _name(role: Role, block: int) -> str:
    return f"{role}-{block:06}"
