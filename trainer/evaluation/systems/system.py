"""What a system is, and the systems that combine no others: model, BM25, index and run file."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64, Shaped
from torch import nn

from trainer.data.retrieval_set import RetrievalSet
from trainer.errors import BadData
from trainer.evaluation.evaluate import nearest_run, note_of
from trainer.evaluation.image_text import image_to_text_metrics
from trainer.evaluation.metrics import RetrievalRun
from trainer.evaluation.run_file import read_run_file, with_spaces
from trainer.evaluation.systems.encoded_documents import EncodedDocuments
from trainer.models.contracts.text import Role
from trainer.models.encoder import VectorEncoder
from trainer.progress import phase
from trainer.retrieval.bm25 import Bm25
from trainer.retrieval.encoding.encode import encode_documents, encode_queries
from trainer.retrieval.fusion import rank_documents
from trainer.retrieval.indexes.dense import DenseIndex
from trainer.retrieval.indexes.index import Index
from trainer.retrieval.indexes.searcher import hits
from trainer.strategies.devices import Precision


@dataclass(frozen=True)
class Corpus:
    """The documents that a system searches."""

    name: str
    """What errors call it."""
    ids: Sequence[str]
    texts: Sequence[str]
    has_images: bool = False
    """Whether `texts` are references to images."""

    @classmethod
    def of(cls, judged_set: RetrievalSet) -> "Corpus":
        """Returns the documents of judged queries."""
        judged_documents = judged_set.document_ids, judged_set.documents
        return cls(judged_set.name, *judged_documents, judged_set.has_images)


@dataclass(frozen=True)
class Preparation:
    """What it took to make a corpus searchable, and what searching it needs."""

    seconds: float = 0.0
    weight_bytes: int = 0
    """Bytes of the models' weights in memory."""
    index_bytes: int = 0
    """Bytes of the documents' vectors or words in memory."""

    def __add__(self, summand: "Preparation") -> "Preparation":
        return Preparation(
            self.seconds + summand.seconds,
            self.weight_bytes + summand.weight_bytes,
            self.index_bytes + summand.index_bytes,
        )


@runtime_checkable
class System(Protocol):
    """Something that answers queries with a ranking of the documents of a corpus."""

    @property
    def name(self) -> str:
        """The name in tables."""

    @property
    def note(self) -> str:
        """A remark that belongs to its figures; may be empty."""

    @property
    def preparation(self) -> Preparation:
        """What it took to make the corpus searchable."""

    def search(self, queries: Mapping[str, str], k: int) -> RetrievalRun:
        """Returns the k best documents per query. `queries` are texts by id."""


class ModelSystem:
    """A model, by exact search. The documents are encoded once."""

    def __init__(
        self,
        name: str,
        encoder: VectorEncoder,
        corpus: Corpus,
        precision: Precision = "fp32",
        encoded_documents: EncodedDocuments | None = None,
        query_role: Role = "query",
    ) -> None:
        """`encoded_documents` remembers the vectors for a system of this name on another corpus.
        With the role `document`, queries are references of images.
        """
        self.name, self._encoder, self._corpus, self._precision = name, encoder, corpus, precision
        self._encode = encode_documents if query_role == "document" else encode_queries
        self._documents, seconds = (encoded_documents or EncodedDocuments()).vectors(
            name, encoder, corpus.texts, precision
        )
        self.note = note_of(self._documents.figures("document"))
        self.preparation = Preparation(
            seconds, weight_bytes(encoder), bytes_of(self._documents.arrays)
        )

    def search(self, queries: Mapping[str, str], k: int) -> RetrievalRun:
        """Returns the k nearest documents per query."""
        vectors = self._encode(self._encoder, list(queries.values()), precision=self._precision)
        return nearest_run(
            vectors, self._documents, list(queries), self._corpus.ids, k, self._encoder
        )

    def image_to_text(
        self, judged_set: RetrievalSet, query_ids: Sequence[str]
    ) -> dict[str, Float64[np.ndarray, " query"]]:
        """Returns the metrics from image to caption, if the documents are images."""
        captions = encode_queries(self._encoder, judged_set.queries, precision=self._precision)
        return image_to_text_metrics(
            captions, self._documents, judged_set, query_ids, self._encoder
        )


class Bm25System:
    """Search by words, which needs no model."""

    name, note = "BM25", ""

    def __init__(self, corpus: Corpus) -> None:
        self._ids, start = corpus.ids, time.monotonic()
        with phase("indexing words"):
            self._index = Bm25(corpus.texts)
        self.preparation = Preparation(time.monotonic() - start, 0, self._index.nbytes)

    def search(self, queries: Mapping[str, str], k: int) -> RetrievalRun:
        """Returns the k best documents per query; fewer if they share no word with it."""
        return self._index.run(queries, self._ids, k)


class IndexSystem:
    """An index of the corpus, searched with its model."""

    note = ""

    def __init__(
        self,
        name: str,
        index: Index,
        encoder: VectorEncoder,
        corpus: Corpus,
        precision: Precision = "fp32",
        query_role: Role = "query",
    ) -> None:
        """With the role `document`, queries are references of images.

        Raises BadData when its documents are not those of the corpus, and BadModel when it is of
        another model.
        """
        if index.manifest.count != len(corpus.ids):
            raise BadData(
                f"{index.folder} holds {index.manifest.count:,} documents, but {corpus.name} has"
                f" {len(corpus.ids):,}; build an index of the set's own corpus"
            )
        self.name, self._index, self._precision = name, index, precision
        self._query_role = query_role
        self._encoder = index.fit_encoder(encoder)
        self._corpus_name, self._corpus_ids = corpus.name, frozenset(corpus.ids)
        files = [path for path in index.folder.rglob("*") if path.is_file()]
        index_bytes = sum(path.stat().st_size for path in files)
        self.preparation = Preparation(0.0, weight_bytes(encoder), index_bytes)

    def search(self, queries: Mapping[str, str], k: int) -> RetrievalRun:
        """Returns the first k documents of the index per query.

        Raises BadData for a document that is not in the corpus.
        """
        texts = list(queries.values())
        results = hits(self._index, self._encoder, texts, k, self._precision, self._query_role)
        run = {
            query: {hit.document.id: hit.score for hit in query_hits}
            for query, query_hits in zip(queries, results, strict=True)
        }
        if document := next(iter(_foreign_documents(run, self._corpus_ids)), None):
            raise BadData(
                f"{self._index.folder} holds a document {document!r} that is not in"
                f" {self._corpus_name}; build an index of the set's own corpus"
            )
        return run

    def image_to_text(
        self, judged_set: RetrievalSet, query_ids: Sequence[str]
    ) -> dict[str, Float64[np.ndarray, " query"]]:
        """Returns the metrics from image to caption by the vectors of an index of images."""
        assert isinstance(self._index, DenseIndex)
        captions = encode_queries(self._encoder, judged_set.queries, precision=self._precision)
        ids = [self._index.document(row).id for row in range(self._index.manifest.count)]
        rows = {document: row for row, document in enumerate(ids)}
        if rows.keys() != self._corpus_ids:
            raise BadData(
                f"{self._index.folder} holds other images than {self._corpus_name}; build an index"
                " of the set's own corpus"
            )
        images = self._index.vectors.select(
            np.array([rows[id_] for id_ in judged_set.document_ids])
        )
        return image_to_text_metrics(captions, images, judged_set, query_ids, self._encoder)


class RunSystem:
    """The rankings in a run file, made by any other system. What that one needs is unknown."""

    preparation = Preparation()

    def __init__(self, name: str, path: Path, corpus: Corpus) -> None:
        """Raises BadData for a file that cannot be read, or is of another corpus."""
        self.name, self._path = name, path
        self._run = with_spaces(read_run_file(path), (), corpus.ids)
        documents = {document for results in self._run.values() for document in results}
        foreign_documents = _foreign_documents(self._run, frozenset(corpus.ids))
        if len(foreign_documents) == len(documents):
            raise BadData(
                f"{path} has no document of {corpus.name}: its first one is"
                f" {next(iter(documents))!r}, and the corpus has {corpus.ids[0]!r}; give the run of"
                " this data set"
            )
        self.note = (
            f"{len(foreign_documents):,} of its {len(documents):,} documents are not in the corpus,"
            " and count as wrong"
            if foreign_documents
            else ""
        )

    def search(self, queries: Mapping[str, str], k: int) -> RetrievalRun:
        """Returns the k best results in the file per query; a query that is not there has none.

        Raises BadData if it has none of the queries.
        """
        run = with_spaces(self._run, queries, ())
        if not run.keys() & queries.keys():
            raise BadData(
                f"{self._path} has no result for any of the {len(queries):,} queries: its first"
                f" query is {next(iter(self._run))!r}, and theirs is {next(iter(queries))!r}; give"
                " the run of this split"
            )
        return {query: dict(rank_documents(run.get(query, {}))[:k]) for query in queries}


def weight_bytes(encoder: nn.Module) -> int:
    """Returns the bytes of the weights of a model."""
    return sum(weight.nbytes for weight in encoder.parameters())


def bytes_of(arrays: Mapping[str, Shaped[np.ndarray, "..."]]) -> int:
    """Returns the bytes of arrays together."""
    return sum(array.nbytes for array in arrays.values())


def _foreign_documents(run: RetrievalRun, ids: frozenset[str]) -> set[str]:
    return {document for results in run.values() for document in results} - ids
