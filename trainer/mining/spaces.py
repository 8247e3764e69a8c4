"""Queries and documents as vectors of one model, on disk in blocks: encoded once, by all ranks
together, and read block by block.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float32, Int64

from trainer.collectives import gather_texts, on_first_rank, rank
from trainer.mining.task import Task
from trainer.mining.texts import StoredTexts
from trainer.models.contract import Role
from trainer.models.dense import DenseEncoder
from trainer.models.encoder import Encoder
from trainer.models.late_interaction import LateInteractionEncoder
from trainer.retrieval.token_index.search import flat_queries, maxsim_scores, top_k_maxsim
from trainer.retrieval.vectors.encode import encode_for_search
from trainer.retrieval.vectors.screened_search import Extent, ScreenedSearch, pair_scores
from trainer.retrieval.vectors.token_vectors import TokenVectors, encode_queries, encode_tokens
from trainer.storage.atomic import atomic_file
from trainer.strategies.devices import Precision

QUERIES_A_SHARD = 2048
"""Queries that are encoded, searched and filtered together. The same for any number of ranks, and
so is what comes out.
"""

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is."""


class Space(ABC):
    """Where a model puts the task's texts, and how near they are to each other there."""

    DOCUMENTS_A_BLOCK: ClassVar[int]

    def __init__(
        self,
        encoder: Encoder,
        task: Task,
        folder: Path,
        micro_batch_tokens: int | None = None,
        precision: Precision = "fp32",
        progress: Progress | None = None,
    ) -> None:
        self.encoder, self.task, self._folder = encoder, task, folder
        self._micro_batch_tokens, self._precision = micro_batch_tokens, precision
        self._progress = progress or (lambda what, done, all: None)

    def encode_all(self) -> None:
        """Encodes what is not there yet. To be called on all ranks: they share out each block, and
        the first writes it.
        """
        on_first_rank(lambda: self._folder.mkdir(parents=True, exist_ok=True))
        self._encode("query", self.task.queries, QUERIES_A_SHARD)
        self._encode("document", self.task.documents, self.DOCUMENTS_A_BLOCK)

    def _encode(self, role: Role, texts: StoredTexts, size: int) -> None:
        blocks = range(-(-len(texts) // size))
        missing = gather_texts(
            [str(block) for block in blocks if not self._marker(role, block).exists()]
            if rank() == 0
            else []
        )
        for block in map(int, missing):
            self._progress(
                "queries encoded" if role == "query" else "documents encoded",
                block * size,
                len(texts),
            )
            vectors = self._vectors(texts.range(block * size, (block + 1) * size), role)
            on_first_rank(
                lambda role=role, block=block, vectors=vectors: self._write(role, block, vectors)  # type: ignore[misc]
            )

    def _blocks(self) -> Iterator[tuple[int, Any]]:
        """First document and vectors of each block."""
        for block in range(-(-len(self.task.documents) // self.DOCUMENTS_A_BLOCK)):
            yield block * self.DOCUMENTS_A_BLOCK, self._read("document", block)

    def pair_scores(
        self, shard: int, queries: Int64[np.ndarray, " pair"], documents: Int64[np.ndarray, " pair"]
    ) -> Float32[np.ndarray, " pair"]:
        """The score of each pair of a query of the shard, counted from its first, and a document.
        Queries come in ascending order.
        """
        asked, scores = self._read("query", shard), np.empty(len(queries), np.float32)
        for first, block in self._blocks():
            some = np.flatnonzero(
                (documents >= first) & (documents < first + self.DOCUMENTS_A_BLOCK)
            )
            if some.size:
                scores[some] = self._pair_scores(
                    asked, block, queries[some], documents[some] - first
                )
        return scores

    def _marker(self, role: Role, block: int) -> Path:
        """The file of a block that is written last."""
        return self._folder / f"{role}-{block:06}.npy"

    @abstractmethod
    def _vectors(self, texts: list[str], role: Role) -> Any:
        """The texts encoded, by all ranks together."""

    @abstractmethod
    def _write(self, role: Role, block: int, vectors: Any) -> None: ...

    @abstractmethod
    def _read(self, role: Role, block: int) -> Any: ...

    @abstractmethod
    def _pair_scores(
        self,
        asked: Any,
        block: Any,
        queries: Int64[np.ndarray, " pair"],
        documents: Int64[np.ndarray, " pair"],
    ) -> Float32[np.ndarray, " pair"]: ...

    @abstractmethod
    def nearest(
        self, shard: int, k: int
    ) -> tuple[Float32[np.ndarray, "query rank"], Int64[np.ndarray, "query rank"]]:
        """Scores and numbers of the k nearest documents of each query of the shard, best first;
        minus infinity and -1 where there are fewer.
        """


class DenseSpace(Space):
    """One vector a text."""

    DOCUMENTS_A_BLOCK = 1 << 14
    encoder: DenseEncoder

    @cached_property
    def _extents(self) -> dict[int, Extent]:
        """Of each block, by its first document, once it was looked at: every shard of queries asks
        for it.
        """
        return {}

    def _vectors(self, texts: list[str], role: Role) -> Float32[np.ndarray, "text dimension"]:
        return encode_for_search(
            self.encoder, texts, role, self._micro_batch_tokens, self._precision
        )

    def _write(
        self, role: Role, block: int, vectors: Float32[np.ndarray, "text dimension"]
    ) -> None:
        _save(self._marker(role, block), vectors)

    def _read(self, role: Role, block: int) -> Float32[np.ndarray, "text dimension"]:
        return _load(self._marker(role, block))

    def nearest(
        self, shard: int, k: int
    ) -> tuple[Float32[np.ndarray, "query rank"], Int64[np.ndarray, "query rank"]]:
        search = ScreenedSearch(self._read("query", shard), k, self.encoder.device)
        for first, documents in self._blocks():
            if first not in self._extents:
                self._extents[first] = Extent.of(documents, self.encoder.device)
            search.add(documents, first, self._extents[first])
        return search.best()

    def _pair_scores(
        self,
        asked: Any,
        block: Any,
        queries: Int64[np.ndarray, " pair"],
        documents: Int64[np.ndarray, " pair"],
    ) -> Float32[np.ndarray, " pair"]:
        return pair_scores(asked, block, queries, documents)


class LateSpace(Space):
    """One vector a token, compared by MaxSim."""

    DOCUMENTS_A_BLOCK = 1 << 10
    encoder: LateInteractionEncoder

    def _vectors(self, texts: list[str], role: Role) -> TokenVectors:
        if role == "query":
            return encode_queries(self.encoder, texts, self._micro_batch_tokens, self._precision)
        return encode_tokens(self.encoder, texts, role, self._micro_batch_tokens, self._precision)

    def _write(self, role: Role, block: int, vectors: TokenVectors) -> None:
        _save(self._tokens(role, block), vectors.vectors)
        _save(self._marker(role, block), vectors.offsets)

    def _read(self, role: Role, block: int) -> TokenVectors:
        return TokenVectors(_load(self._tokens(role, block)), _load(self._marker(role, block)))

    def _tokens(self, role: Role, block: int) -> Path:
        return self._folder / f"{role}-tokens-{block:06}.npy"

    def nearest(
        self, shard: int, k: int
    ) -> tuple[Float32[np.ndarray, "query rank"], Int64[np.ndarray, "query rank"]]:
        asked = self._read("query", shard).padded()
        scores, rows = (
            np.full((len(asked), k), -np.inf, np.float32),
            np.full((len(asked), k), -1, np.int64),
        )
        for first, documents in self._blocks():
            more_scores, more_rows = top_k_maxsim(asked, documents, k)
            scores, rows = (
                np.concatenate([scores, more_scores], 1),
                np.concatenate([rows, more_rows + first], 1),
            )
            order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            scores, rows = np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)
        return scores, np.where(
            np.isneginf(scores), -1, rows
        )  # a document without any token that counts is near to nothing

    def _pair_scores(
        self,
        asked: Any,
        block: Any,
        queries: Int64[np.ndarray, " pair"],
        documents: Int64[np.ndarray, " pair"],
    ) -> Float32[np.ndarray, " pair"]:
        scores = np.empty(len(queries), np.float32)
        cuts = [0, *(np.flatnonzero(np.diff(queries)) + 1).tolist(), len(queries)]
        for start, stop in pairwise(cuts):
            tokens, starts = flat_queries(asked.of(int(queries[start]))[None])
            some = block.select(documents[start:stop])
            scores[start:stop] = maxsim_scores(tokens, starts, some.vectors, some.offsets)[0]
        return scores


def space_of(
    encoder: Encoder,
    task: Task,
    folder: Path,
    micro_batch_tokens: int | None = None,
    precision: Precision = "fp32",
    progress: Progress | None = None,
) -> Space:
    """The space of a model of either family; its vectors are kept in `folder`."""
    match encoder:
        case DenseEncoder():
            return DenseSpace(encoder, task, folder, micro_batch_tokens, precision, progress)
        case LateInteractionEncoder():
            return LateSpace(encoder, task, folder, micro_batch_tokens, precision, progress)
        case _:
            raise TypeError(
                f"how the embeddings of {type(encoder).__name__} are compared is not known"
            )


def _save(path: Path, array: np.ndarray) -> None:
    with atomic_file(path) as partial, partial.open("wb") as file:
        np.save(file, array)


def _load(path: Path) -> Any:
    # Copied when written to, which nobody does: PyTorch warns of arrays that are read-only. Plain,
    # since picking from NumPy's memmap takes twice as long.
    return np.asarray(np.load(path, mmap_mode="c", allow_pickle=False))
