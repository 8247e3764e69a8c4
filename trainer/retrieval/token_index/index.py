"""An index of token vectors, opened for search.

manifest.json       model, kind, settings, segments, and size and fingerprint of every other file
probe.npy           token vectors of a fixed text by the model that made the index, to know it by
documents-N.jsonl   id, title and text of every document of segment N; offsets-N.npy says where each
begins lengths-N.npy       how many vectors each has vectors-N.npy       exact: float16, one row a
token ids-N.npy           compressed: each token's nearest centroid (uint16); codes-N.npy the rest
of it, and means-N.npy         what the tokens of a document have in common (uint8) centroids.npy,
rotation.npy, books.npy, spread.npy     compressed: what these stand for, the same for all segments
deleted-N-M.npy     rows of segment N that are not there any more
"""

from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64

from trainer.errors import BadModel
from trainer.kernels.matmul import linear
from trainer.models.encoder import VectorEncoder
from trainer.retrieval.corpus import Document
from trainer.retrieval.encoding.encode import encode_documents
from trainer.retrieval.indexes.index import Index
from trainer.retrieval.indexes.manifest import open_consistent
from trainer.retrieval.indexes.stored_documents import read_array
from trainer.retrieval.token_index.codes import Codec
from trainer.retrieval.token_index.manifest import Segment, TokenManifest
from trainer.retrieval.token_index.segment import OpenSegment
from trainer.vectors.maxsim_search import MaxSimSearch, check_queries, flat_queries, maxsim_scores
from trainer.vectors.ragged import document_ranges, offsets_of
from trainer.vectors.vectors import merge_rankings

PROBE = (
    "A text about disks, networks and the weather, written to be compared: what is searched for?"
)
_PROBE_TOLERANCE = 0.05
"""Relative distance; bf16 stays below 0.02, another model is above 0.1."""
_CANDIDATES_A_HIT = 4
_TOKENS_AT_ONCE = 1 << 15
_LOOKED_AT = 8
"""Documents that are compared by their means, for each that is decoded."""


class Found(NamedTuple):
    """Documents found for each query."""

    scores: Float32[np.ndarray, "query rank"]
    rows: Int64[np.ndarray, "query rank"]


class TokenIndex(Index):
    """An index folder of token vectors, opened. Vectors stay on disk. Rows count through all
    segments, deleted documents included.
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
        """The index in `folder`. Raises BadFolder when it is not one of token vectors, or a file of
        it is missing, cut or altered.
        """
        return open_consistent(Path(folder), TokenManifest.read, cls)

    def segment(self, segment: Segment) -> OpenSegment:
        """A segment of this index, opened, whether the manifest names it already or not."""
        return OpenSegment(
            self.folder, segment, self.manifest.kind, self.manifest.dimensions, self.codec
        )

    def live_rows(self) -> Int64[np.ndarray, " row"]:
        """Rows of the documents that were not deleted."""
        return np.concatenate(
            [
                segment.live_rows + first
                for first, segment in zip(self._firsts, self.segments, strict=False)
            ]
        )

    @property
    def tokens(self) -> int:
        """Vectors of the documents that were not deleted."""
        return sum(
            int(np.diff(segment.offsets)[segment.live_rows].sum()) for segment in self.segments
        )

    def _difference(self, encoder: VectorEncoder) -> str | None:
        wanted, found = self._probe, probe_vectors(encoder)
        if found.shape == wanted.shape and bool(
            np.linalg.norm(found - wanted) <= _PROBE_TOLERANCE * np.linalg.norm(wanted)
        ):
            return None
        return "other vectors than the model that made the index"

    def search(
        self,
        queries: Float[np.ndarray, "query query_token dimension"],
        k: int,
        probes: int | None = None,
        candidates: int | None = None,
    ) -> tuple[Float32[np.ndarray, "query rank"], Int64[np.ndarray, "query rank"]]:
        """Scores and rows of the k best documents of each query, best first (row -1: none found);
        rows of zeros in a query do not count.

        Exact for kind exact. For compressed, `probes` lists are looked into for each query token,
        and `candidates` documents are decoded; where they are not given, those of the manifest
        hold. Four candidates for each of k are the least. Raises BadModel for vectors of another
        length, BadData for a query all of zeros.
        """
        if queries.shape[2] != self.manifest.dimensions:
            raise BadModel(
                f"the queries have vectors of {queries.shape[2]} numbers, the index"
                f" {self.manifest.dimensions}; encode them with {self.manifest.made_with}"
            )
        check_queries(queries)
        if self.codec is None or len(queries) == 0:
            found = (
                [self._exact(queries, k)]
                if self.codec is None
                else [Found(np.empty((0, k), np.float32), np.empty((0, k), np.int64))]
            )
        else:
            found = [
                self._compressed(
                    query[None],
                    k,
                    probes or self.probes,
                    max(candidates or self.candidates, _CANDIDATES_A_HIT * k),
                )
                for query in queries
            ]
        scores, rows = (np.concatenate(part) for part in zip(*found, strict=True))
        return scores, np.where(np.isneginf(scores), -1, rows)

    def document(self, row: int) -> Document:
        """The document of a row."""
        segment = int(np.searchsorted(self._firsts, row, side="right")) - 1
        return self.segments[segment].documents[row - int(self._firsts[segment])]

    def _exact(self, queries: Float[np.ndarray, "query query_token dimension"], k: int) -> Found:
        search = MaxSimSearch(queries, min(k, int(self._firsts[-1])))
        for first, segment in zip(self._firsts, self.segments, strict=False):
            documents = segment.exact
            search.add(documents.rows, documents.offsets, int(first), segment.deleted)
        return Found(*search.best())

    def _compressed(
        self,
        query: Float[np.ndarray, "1 query_token dimension"],
        k: int,
        probes: int,
        candidates: int,
    ) -> Found:
        """Documents by the lists of their tokens' nearest centroids and by their means; then the
        vectors of the best of them, decoded.

        After PLAID (Santhanam et al. 2022), whose middle step compares all tokens of a document by
        their centroids: that orders documents no better than the lists do and takes as long as
        decoding; means order them far better and take no time.
        """
        assert self.codec is not None
        tokens, starts = flat_queries(self.codec.rotate(query))
        similarities = linear(tokens, torch.from_numpy(self.codec.centroids)).numpy()
        near = np.concatenate(
            [
                _near(segment, similarities, probes, _LOOKED_AT * candidates, tokens.sum(0).numpy())
                for segment in self.segments
            ]
        )
        chosen = _largest(near, candidates)
        chosen = chosen[near[chosen] > -np.inf]
        parts = []
        for first, segment in zip(self._firsts, self.segments, strict=False):
            rows = chosen[(chosen >= first) & (chosen < first + segment.segment.documents)] - first
            for start, stop in document_ranges(
                offsets_of(np.diff(segment.offsets)[rows]), _TOKENS_AT_ONCE
            ):
                some = rows[start:stop]
                decoded = segment.decoded(some)
                parts.append(
                    Found(
                        maxsim_scores(tokens, starts, decoded.rows, decoded.offsets),
                        (some + first)[None],
                    )
                )
        return (
            Found(*merge_rankings(parts, k))
            if parts
            else Found(np.empty((1, 0), np.float32), np.empty((1, 0), np.int64))
        )


def _near(
    segment: OpenSegment,
    similarities: Float32[np.ndarray, "query_token centroid"],
    probes: int,
    documents: int,
    query: Float32[np.ndarray, " place"],
) -> Float32[np.ndarray, " row"]:
    """How near the documents of a segment are: by the lists of centroids, and the nearest
    `documents` of them by their means too; others -inf.

    A document's mean is a part of each of its tokens, whichever of them a query's token finds: it
    adds its product with the sum of the query's tokens.
    """
    near = segment.lists.gathered(similarities, probes, segment.segment.documents)
    near[segment.deleted] = -np.inf
    rows = _largest(near, documents)
    found = np.full_like(near, -np.inf)
    found[rows] = near[rows] + segment.means_of(rows) @ query
    return found


def _largest(values: Float32[np.ndarray, " row"], count: int) -> Int64[np.ndarray, " chosen"]:
    """Places of the `count` largest values, in order of place."""
    if count >= len(values):
        return np.arange(len(values))
    return np.sort(np.argpartition(-values, count)[:count]) if count else np.empty(0, np.int64)


def probe_vectors(encoder: VectorEncoder) -> Float32[np.ndarray, "token dimension"]:
    """What the model is known by."""
    return encode_documents(encoder, [PROBE]).rows
