"""An index with its model, ready to answer questions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Self

from trainer.errors import BadData, BadModel, BadRecipe
from trainer.models.contracts.text import Role
from trainer.models.encoder import PairEncoder, VectorEncoder
from trainer.models.families import read_reranker
from trainer.progress import phase
from trainer.retrieval.bm25 import Bm25
from trainer.retrieval.encoding.encode import encode_documents, encode_queries
from trainer.retrieval.fusion import FUSED_DOCUMENTS
from trainer.retrieval.indexes.index import Hit, Index
from trainer.retrieval.indexes.index_corpus import model_of_index, open_index, open_together
from trainer.retrieval.indexes.shared_terms import SharedTerm, shared_terms
from trainer.retrieval.indexes.views import BM25, check_together, index_folders, searched_views
from trainer.retrieval.rerank import score_pairs
from trainer.retrieval.token_index.explain import Match, explain
from trainer.retrieval.view_documents import ViewDocuments, fuse_hits
from trainer.retrieval.view_weights import OpenViews, open_views, open_views_of_images
from trainer.strategies.devices import Precision

Explanation = list[Match] | list[SharedTerm]


@dataclass(frozen=True)
class SearchedIndex:
    """An open index and its model."""

    index: Index
    encoder: VectorEncoder

    @classmethod
    def open(cls, index: Index, model: str | None = None) -> Self:
        """Loads the model of an index; `model` is its new place, if it was moved. Raises BadModel
        when it is another model.
        """
        with phase("loading the model"):
            encoder = model_of_index(index.folder, index.manifest, model)
        return cls(index, index.fit_encoder(encoder))

    def hits(self, questions: Sequence[str], k: int, role: Role = "query") -> list[list[Hit]]:
        """Returns the k best documents per question, best first; with the role `document`, per
        reference of an image.
        """
        return hits(self.index, self.encoder, questions, k, role=role)


class SearchedWords:
    """BM25 over the documents of an index. Memory holds their words."""

    def __init__(self, index: Index) -> None:
        self.index = index
        with phase("indexing words"):
            self._rows = index.live_rows().tolist()
            texts = [index.document(row).full_text for row in self._rows]
            if index.has_images and not any(text.strip() for text in texts):
                raise BadData(
                    f"no image of {index.folder} has a title or a caption, so {BM25} finds nothing;"
                    " build the index from a file that has them, or add a view of texts"
                )
            self._bm25 = Bm25(texts)

    @classmethod
    def open(cls, folder: Path, views: Sequence[Index]) -> Self:
        """Opens the documents of a folder of which these views are searched: those of a view of
        texts, or, if there is none, the titles and captions of images.
        """
        indexes = chain(views, map(open_index, index_folders(folder)))
        texts = next((index for index in indexes if not index.has_images), None)
        index = texts or open_index(index_folders(folder)[0])
        check_together([*views, index])
        return cls(index)

    def hits(self, questions: Sequence[str], k: int, role: Role = "query") -> list[list[Hit]]:
        """Returns the k best documents per question, best first."""
        return [
            [
                Hit(score, self.index.document(self._rows[row]), row=self._rows[row])
                for row, score in zip(rows.tolist(), scores.tolist(), strict=True)
            ]
            for rows, scores in self._bm25.best(questions, k)
        ]


def _check_choices(view: str | None, hybrid: bool, weights: Mapping[str, float] | None) -> None:
    """Raises BadRecipe for choices of views that contradict each other."""
    if hybrid and view is not None:
        raise BadRecipe("--view searches one view, and --hybrid all of them; give one of the two")
    if weights is not None and not hybrid:
        raise BadRecipe("--weights are those of --hybrid; give --hybrid too")


class Searcher:
    """One open index or several views, their models, and optionally a cross-encoder that re-ranks.

    Several views are combined as `nearfar evaluate` combines systems: with `weights` by a weighted
    sum of scores, without by reciprocal ranks. `note` says where the weights come from, and which
    views cannot be read.
    """

    def __init__(
        self,
        folder: Path,
        views: OpenViews,
        model: str | None = None,
        reranker: str | None = None,
        rerank_depth: int = 100,
    ) -> None:
        """Loads the models of `views`, which are those of `folder`; see `open`."""
        self.reranker = read_reranker(reranker) if reranker is not None else None
        self.rerank_depth, self.weights = rerank_depth, views.weights
        self.views = [SearchedIndex.open(index, model) for index in views.indexes]
        self.words = SearchedWords.open(folder, views.indexes) if views.has_words else None
        self._documents = ViewDocuments(folder, views.indexes)
        self.note = "; ".join(filter(None, (views.note, self._documents.note)))

    @classmethod
    def open(
        cls,
        index: Path,
        *,
        model: str | None = None,
        reranker: str | None = None,
        rerank_depth: int = 100,
        view: str | None = None,
        hybrid: bool = False,
        weights: Mapping[str, float] | None = None,
        by_image: bool = False,
    ) -> Self:
        """Returns a searcher for an index folder.

        `model` is the new place of the index's model, if it was moved. `reranker` names a
        cross-encoder, which re-ranks the first `rerank_depth` documents. Of a folder of views,
        `view` is searched, or with `hybrid` several: those that have `weights`, where the name
        `bm25` stands for BM25; all of them if there are no `weights`; with None, as the folder says
        (`open_views`). With `by_image`, views of images alone are searched. Raises BadFolder,
        BadModel, BadRecipe.
        """
        _check_choices(view, hybrid, weights)
        if by_image:
            options = {"--weights": weights, "--rerank": reranker}
            if names := [name for name, value in options.items() if value is not None]:
                raise BadRecipe(
                    f"an image is compared with images alone; leave {' and '.join(names)} out"
                )
            views = open_views_of_images(index, view, hybrid)
        elif hybrid and weights is None:
            views = open_views(index)
        else:
            views = _views(index, view, hybrid, dict(weights or {}))
        if model is not None and len(views.indexes) > 1:
            raise BadRecipe(
                f"--model names one model, but {len(views.indexes)} views are searched; search one"
                " with --view, or build the view of the moved model again"
            )
        return cls(index, views, model, reranker, rerank_depth)

    @property
    def count(self) -> int:
        """The number of documents."""
        first = self.views[0] if self.views else self.words
        return 0 if first is None else first.index.manifest.count

    @property
    def _searches(self) -> list[SearchedIndex | SearchedWords]:
        return [*self.views, *([] if self.words is None else [self.words])]

    @property
    def is_combined(self) -> bool:
        """Whether the first `FUSED_DOCUMENTS` hits of several searches are combined."""
        return len(self._searches) > 1

    def search(self, questions: Sequence[str], k: int = 10) -> list[list[Hit]]:
        """Returns the k best documents per question, best first; BadData for a blank question."""
        if not all(question.strip() for question in questions):
            raise BadData("the question is blank; write what to search for")
        if self.reranker is None:
            return self._first_hits(questions, k)
        first = self._first_hits(questions, max(k, self.rerank_depth))
        return self._rerank(self.reranker, questions, first, k)

    def search_by_image(self, reference: str, k: int = 10) -> list[Hit]:
        """Returns the k images nearest to an image, best first; for a searcher that is opened with
        `by_image`.
        """
        return self._first_hits([reference], k, "document")[0]

    def explain(self, question: str, hit: Hit) -> Explanation:
        """Returns the token of the document that each token of the question matched, or the terms
        that both share.

        Raises BadModel when the index holds one dense vector per document.
        """
        self.check_explains()
        (view,) = self.views
        explanation = explain if view.index.UNIT == "token" else shared_terms
        return explanation(view.encoder, question, hit.document.full_text)

    def check_explains(self) -> None:
        """Raises BadModel for several views, or one dense vector per document."""
        if len(self.views) > 1 or self.words is not None:
            raise BadModel(
                "--explain explains the score of one index, and --hybrid combines several; name one"
                " with --view"
            )
        index = self.views[0].index
        if index.UNIT == "text":
            raise BadModel(
                f"{index.folder} holds one dense vector per document, which shows no words;"
                " --explain needs an index of a late-interaction or a sparse model"
            )

    def _first_hits(
        self, questions: Sequence[str], k: int, role: Role = "query"
    ) -> list[list[Hit]]:
        """Returns the k best documents per question before re-ranking, as all views know them."""
        if self.is_combined:
            rankings = [search.hits(questions, FUSED_DOCUMENTS, role) for search in self._searches]
            first = [fuse_hits(parts, self.weights, k) for parts in zip(*rankings, strict=True)]
        else:
            (search,) = self._searches
            first = search.hits(questions, k, role)
        return [[self._documents.complete(hit) for hit in documents] for documents in first]

    @staticmethod
    def _rerank(
        encoder: PairEncoder, questions: Sequence[str], first: list[list[Hit]], k: int
    ) -> list[list[Hit]]:
        """Returns the k best of the first documents, in the order of the cross-encoder."""
        if not any(first):
            raise BadData(
                "the first search found no document to re-rank; add some to the index, or ask"
                " another question"
            )
        pairs = [
            (question, hit.document.full_text)
            for question, documents in zip(questions, first, strict=True)
            for hit in documents
        ]
        if not all(text.strip() for _, text in pairs):
            raise BadData(
                "--rerank reads texts, and the first search found an image without a title or a"
                " caption; leave --rerank out"
            )
        scores = iter(score_pairs(encoder, pairs).tolist())
        return [
            sorted(
                (
                    replace(hit, score=next(scores), first_rank=rank, first_score=hit.score)
                    for rank, hit in enumerate(documents, 1)
                ),
                key=lambda hit: -hit.score,
            )[:k]
            for documents in first
        ]


def _views(index: Path, view: str | None, hybrid: bool, weights: dict[str, float]) -> OpenViews:
    """Opens what a user wants to be searched."""
    word_weight = weights.pop(BM25, None)
    if word_weight is not None and not weights:
        raise BadRecipe(f"--weights gives {BM25} alone a weight; give a view one, too")
    places = [index]
    if hybrid or view is not None:
        places = searched_views(index, list(weights) if view is None else [view])
    word_weights = [] if word_weight is None else [word_weight]
    ordered_weights = [*weights.values(), *word_weights] or None
    return OpenViews(open_together(places), ordered_weights, bool(word_weights))


def hits(
    index: Index,
    encoder: VectorEncoder,
    questions: Sequence[str],
    k: int,
    precision: Precision = "fp32",
    role: Role = "query",
) -> list[list[Hit]]:
    """Returns the k best documents per question, best first; with the role `document`, per
    reference of an image.

    The encoder is one that `Index.fit_encoder` has returned: to compare it with the index takes
    longer than a search. Raises BadData for a question that has no token that counts.
    """
    encode = encode_queries if role == "query" else encode_documents
    queries = encode(encoder, questions, precision=precision)
    scores, rows = index.nearest(queries, k)
    return [
        [
            Hit(score, index.document(row), row=row)
            for score, row in zip(query_scores, query_rows, strict=True)
            if row >= 0
        ]
        for query_scores, query_rows in zip(scores.tolist(), rows.tolist(), strict=True)
    ]
