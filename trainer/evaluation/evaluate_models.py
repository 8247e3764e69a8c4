"""Measurement of several models, given by name, on the same judged queries."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainer.data.readers.read import Split
from trainer.data.retrieval_set import RetrievalSet, read_retrieval_set
from trainer.errors import BadRecipe
from trainer.evaluation.by_index import check_fits, index_run
from trainer.evaluation.evaluate import evaluate_bm25, evaluate_run, rerank_run, retrieve
from trainer.evaluation.metrics import RetrievalRun
from trainer.evaluation.results import Evaluation, SystemResult, compare
from trainer.models.cut import read_cut
from trainer.models.encoder import PairEncoder, VectorEncoder
from trainer.models.families import read_reranker
from trainer.models.files.locate import locate
from trainer.progress import phase
from trainer.retrieval.indexes.index import Index
from trainer.retrieval.indexes.index_corpus import model_of_index, open_index
from trainer.strategies import devices

_DOCUMENTS = 101
"""Documents retrieved per query: 100 are measured, and one may be the query itself."""


@dataclass(frozen=True)
class ModelComparison:
    """An evaluation of models, with the queries and documents that were used."""

    evaluation: Evaluation
    judged_set: RetrievalSet


def evaluate_models(
    models: Sequence[str],
    data: str,
    *,
    split: Split = "test",
    columns: Mapping[str, str] | None = None,
    corpus: str | None = None,
    max_queries: int | None = None,
    bm25: bool = True,
    index: Path | None = None,
    reranker: str | None = None,
    rerank_depth: int = 100,
    layers: int | None = None,
    dimensions: int | None = None,
    precision: devices.Precision | Literal["auto"] = "auto",
    tell: Callable[[str], None] = lambda line: None,
) -> ModelComparison:
    """Measures models by exact search, and compares BM25 and each model with the first one.

    `corpus` has documents that are searched too. `index` is an index of the set's documents by the
    only model; it is measured in addition to exact search. `reranker` names a cross-encoder, which
    re-ranks the first `rerank_depth` documents of each model. `layers` and `dimensions` cut models
    that were trained with matryoshka. Raises BadRecipe when a model is named twice.
    """
    _check_models(models, index)
    accelerator = devices.find_accelerator()
    numbers = devices.choose_precision(precision, accelerator)
    cross_encoder = read_reranker(reranker).to(accelerator) if reranker is not None else None
    judged_set = read_retrieval_set(data, split, dict(columns or {}), max_queries, corpus=corpus)
    measure = _Measurement(judged_set, numbers, cross_encoder, reranker, rerank_depth, tell)
    systems: list[SystemResult] = []
    for model in reversed(models):
        tell(f"measuring {model}")
        if index is None:
            with phase("loading the model"):
                encoder = read_cut(model, layers, dimensions).to(accelerator)
            systems += measure(encoder, _name(model, layers, dimensions))
        else:
            opened_index = open_index(index)
            encoder = model_of_index(index, opened_index.manifest, model, layers, dimensions)
            check_fits(encoder.to(accelerator), opened_index, judged_set)
            layers = layers or opened_index.manifest.layers
            systems += measure(encoder, _name(model, layers, dimensions), opened_index)
    baseline = [evaluate_bm25(judged_set)] if bm25 else []
    return ModelComparison(compare(judged_set, split, [*baseline, *systems]), judged_set)


def _check_models(models: Sequence[str], index: Path | None) -> None:
    if len(set(models)) < len(models):
        raise BadRecipe(f"a model is named twice: {', '.join(models)}; name each once")
    if index is not None and len(models) > 1:
        raise BadRecipe("an index belongs to one model; give that model alone with --index")
    for model in models:
        locate(model)


def _name(model: str, layers: int | None, dimensions: int | None) -> str:
    cuts = [
        f"{count} {unit}"
        for count, unit in ((layers, "layers"), (dimensions, "dimensions"))
        if count is not None
    ]
    return f"{model} at {', '.join(cuts)}" if cuts else model


@dataclass(frozen=True)
class _Measurement:
    judged_set: RetrievalSet
    precision: devices.Precision
    cross_encoder: PairEncoder | None
    reranker: str | None
    rerank_depth: int
    tell: Callable[[str], None]

    def __call__(
        self, encoder: VectorEncoder, name: str, index: Index | None = None
    ) -> Iterator[SystemResult]:
        """Yields the results of exact search, of the index, and of re-ranking the last of these."""
        k = max(_DOCUMENTS, self.rerank_depth if self.cross_encoder is not None else 0)
        run = retrieve(encoder, self.judged_set, k, self.precision)
        yield evaluate_run(run, self.judged_set, name)
        if index is not None:
            name = f"{name} by {index.folder.name}"
            run = index_run(encoder, index, self.judged_set, k, self.precision)
            yield evaluate_run(run, self.judged_set, name)
        if self.cross_encoder is not None:
            run = self._rerank(self.cross_encoder, run)
            yield evaluate_run(run, self.judged_set, f"{name} + {self.reranker}")

    def _rerank(self, cross_encoder: PairEncoder, run: RetrievalRun) -> RetrievalRun:
        queries = f"{len(self.judged_set.queries):,} queries"
        self.tell(f"re-ranking {self.rerank_depth} documents of each of {queries}")
        return rerank_run(cross_encoder, run, self.judged_set, self.rerank_depth, self.precision)
