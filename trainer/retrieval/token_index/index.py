"""An index of token vectors, open for search.

manifest.json       model, kind, settings, segments, and size and hash of every other file
probe.npy           token vectors of a fixed text, by which the model of the index is recognised
documents-N.jsonl   id, title and text of every document of segment N
offsets-N.npy       where each line of documents-N.jsonl begins
lengths-N.npy       number of vectors per document
vectors-N.npy       exact: one row per token (float16)
ids-N.npy           compressed: the nearest centroid per token (uint16)
codes-N.npy         compressed: the code of the residual per token (uint8)
means-N.npy         compressed: the code of the mean residual per document (uint8)
centroids.npy, rotation.npy, books.npy, spread.npy     compressed: the codec of all segments
deleted-N-M.npy     deleted rows of segment N
"""

from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from trainer.data.readers.corpus import Document
from trainer.errors import BadModel
from trainer.kernels.matmul import linear
from trainer.models.encoder import VectorEncoder
from trainer.retrieval.encoding.encode import encode_documents
from trainer.retrieval.indexes.index import Index
from trainer.retrieval.indexes.manifest import open_consistent
from trainer.retrieval.indexes.stored_documents import read_array
from trainer.retrieval.token_index.codes import Codec
from trainer.retrieval.token_index.manifest import Segment, TokenManifest
from trainer.retrieval.token_index.segment import OpenSegment
from trainer.vectors.maxsim_search import MaxSimSearch, check_queries, flat_queries, maxsim_scores
from trainer.vectors.ragged import document_ranges, offsets_of
from trainer.vectors.vectors import TopK, Vectors, merge_rankings

PROBE = (
    "A text about disks, networks and the weather, written to be compared: what is searched for?"
)
_PROBE_TOLERANCE = 0.05
"""Relative distance; bf16 stays below 0.02, another model is above 0.1."""
_CANDIDATES_PER_HIT = 4
_TOKENS_AT_ONCE = 1 << 15
_MEANS_PER_CANDIDATE = 8
"""The number of documents that are scored by their means, per document that is decoded."""


class FoundDocuments(NamedTuple):
    """The documents found per query."""

    scores: Float32[np.ndarray, "query rank"]
    rows: Int64[np.ndarray, "query rank"]


class TokenIndex(Index):
    """An open index of token vectors, which stay on disk.

    Rows are counted through all segments, with deleted documents.
    """

    UNIT = "token"

    def __init__(self, folder: Path, manifest: TokenManifest) -> None:
        self.folder = folder
        self.manifest: TokenManifest = manifest
        self.probes = int(manifest.approximate.get("probes", 0))
        self.candidates = int(manifest.approximate.get("candidates", 0))
        self.codec = (
            Codec.load(folder, manifest.dimensions) if manifest.kind == "compressed" else None
        )
        self.segments = [self.segment(segment) for segment in manifest.segments]
        self._probe = read_array(folder / "probe.npy", (None, manifest.dimensions), np.float32)
        self._firsts = np.cumsum([0, *(segment.documents for segment in manifest.segments)])

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Opens the index in `folder`.

        Raises BadFolder when it holds no index of token vectors, or when a file is missing,
        truncated or altered.
        """
        return open_consistent(Path(folder), TokenManifest.read, cls)

    def segment(self, segment: Segment) -> OpenSegment:
        """Opens a segment, which may not be in the manifest yet."""
        return OpenSegment(
            self.folder, segment, self.manifest.kind, self.manifest.dimensions, self.codec
        )

    def live_rows(self) -> Int64[np.ndarray, " row"]:
        """Returns the rows of the documents that are not deleted."""
        return np.concatenate(
            [
                segment.live_rows + first
                for first, segment in zip(self._firsts, self.segments, strict=False)
            ]
        )

    @property
    def tokens(self) -> int:
        """The number of vectors of the documents that are not deleted."""
        return sum(
            int(np.diff(segment.offsets)[segment.live_rows].sum()) for segment in self.segments
        )

    def _difference(self, encoder: VectorEncoder) -> str | None:
        reference, actual = self._probe, probe_vectors(encoder)
        if actual.shape == reference.shape and bool(
            np.linalg.norm(actual - reference) <= _PROBE_TOLERANCE * np.linalg.norm(reference)
        ):
            return None
        return "other vectors than the model that made the index"

    def nearest(self, queries: Vectors, k: int) -> TopK:
        """Returns the result of `search`."""
        return self.search(queries.to_padded(), k)

    def search(
        self,
        queries: Float[np.ndarray, "query query_token dimension"],
        k: int,
        probes: int | None = None,
        candidates: int | None = None,
    ) -> TopK:
        """Returns scores and rows of the k best documents per query, best first (row -1: none).

        Rows of zeros in a query do not count. An exact index is searched exactly. In a compressed
        index, each query token probes `probes` lists, and `candidates` documents are decoded, at
        least four per result. The defaults are in the manifest. Raises BadModel when the number of
        dimensions is wrong, and BadData for a query that has only zeros.
        """
        if queries.shape[2] != self.manifest.dimensions:
            raise BadModel(
                f"the queries have vectors of {queries.shape[2]} numbers, the index"
                f" {self.manifest.dimensions}; encode them with {self.manifest.made_with}"
            )
        check_queries(queries)
        if self.codec is None or len(queries) == 0:
            results = (
                [self._search_exact(queries, k)]
                if self.codec is None
                else [FoundDocuments(np.empty((0, k), np.float32), np.empty((0, k), np.int64))]
            )
        else:
            results = [
                self._search_compressed(
                    query[None],
                    k,
                    probes or self.probes,
                    max(candidates or self.candidates, _CANDIDATES_PER_HIT * k),
                )
                for query in queries
            ]
        scores, rows = (np.concatenate(part) for part in zip(*results, strict=True))
        return scores, np.where(np.isneginf(scores), -1, rows)

    def document(self, row: int) -> Document:
        """Returns the document of a row."""
        segment = int(np.searchsorted(self._firsts, row, side="right")) - 1
        return self.segments[segment].documents[row - int(self._firsts[segment])]

    def _search_exact(
        self, queries: Float[np.ndarray, "query query_token dimension"], k: int
    ) -> FoundDocuments:
        search = MaxSimSearch(queries, min(k, int(self._firsts[-1])))
        for first, segment in zip(self._firsts, self.segments, strict=False):
            documents = segment.exact
            search.add(documents.rows, documents.offsets, int(first), segment.is_deleted)
        return FoundDocuments(*search.best())

    def _search_compressed(
        self,
        query: Float[np.ndarray, "1 query_token dimension"],
        k: int,
        probes: int,
        candidates: int,
    ) -> FoundDocuments:
        """Ranks documents by lists and means, and scores the best of them by their decoded vectors.

        PLAID (Santhanam et al. 2022) has another middle step: it compares all tokens of a document
        by their centroids. That ranks no better than the lists and takes as long as decoding. Means
        rank much better, in almost no time.
        """
        assert self.codec is not None
        tokens, starts = flat_queries(self.codec.rotate(query))
        all_rows = self._candidate_rows(self.codec, tokens, probes, candidates)
        parts = []
        for first, segment in zip(self._firsts, self.segments, strict=False):
            last = first + segment.segment.documents
            rows = all_rows[(all_rows >= first) & (all_rows < last)] - first
            for start, stop in document_ranges(
                offsets_of(np.diff(segment.offsets)[rows]), _TOKENS_AT_ONCE
            ):
                block = rows[start:stop]
                decoded_vectors = segment.decode(block)
                parts.append(
                    FoundDocuments(
                        maxsim_scores(
                            tokens, starts, decoded_vectors.rows, decoded_vectors.offsets
                        ),
                        (block + first)[None],
                    )
                )
        return (
            FoundDocuments(*merge_rankings(parts, k))
            if parts
            else FoundDocuments(np.empty((1, 0), np.float32), np.empty((1, 0), np.int64))
        )

    def _candidate_rows(
        self, codec: Codec, tokens: Float[Tensor, "token place"], probes: int, candidates: int
    ) -> Int64[np.ndarray, " row"]:
        """Returns the rows of the documents to decode, by lists and means."""
        similarities = linear(tokens, torch.from_numpy(codec.centroids)).numpy()
        query, documents = tokens.sum(0).numpy(), _MEANS_PER_CANDIDATE * candidates
        near = np.concatenate(
            [_near(segment, similarities, probes, documents, query) for segment in self.segments]
        )
        rows = _largest(near, candidates)
        return rows[near[rows] > -np.inf]


def _near(
    segment: OpenSegment,
    similarities: Float32[np.ndarray, "query_token centroid"],
    probes: int,
    documents: int,
    query: Float32[np.ndarray, " place"],
) -> Float32[np.ndarray, " row"]:
    """Returns approximate scores of the documents of a segment.

    All are scored by the lists of centroids, and the best `documents` also by their means; the
    others get minus infinity. The mean is a part of every token of a document, so it adds its
    product with the sum of the query's tokens.
    """
    near = segment.lists.document_scores(similarities, probes, segment.segment.documents)
    near[segment.is_deleted] = -np.inf
    rows = _largest(near, documents)
    results = np.full_like(near, -np.inf)
    results[rows] = near[rows] + segment.means_of(rows) @ query
    return results


def _largest(values: Float32[np.ndarray, " row"], count: int) -> Int64[np.ndarray, " chosen"]:
    """Returns the places of the `count` largest values, in order of place."""
    if count >= len(values):
        return np.arange(len(values))
    return np.sort(np.argpartition(-values, count)[:count]) if count else np.empty(0, np.int64)


def probe_vectors(encoder: VectorEncoder) -> Float32[np.ndarray, "token dimension"]:
    """Returns the vectors by which a model is recognised."""
    return encode_documents(encoder, [PROBE]).rows
