"""Opens systems by name. A new kind is a class, its form in `names`, and a line here."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float64

from trainer.data.retrieval_set import RetrievalSet
from trainer.errors import BadModel, BadRecipe
from trainer.evaluation.metrics import RetrievalRun
from trainer.evaluation.systems.combined import RankFusion, RerankedSystem, ScoreFusion
from trainer.evaluation.systems.encoded_documents import EncodedDocuments
from trainer.evaluation.systems.names import SystemName
from trainer.evaluation.systems.system import (
    Bm25System,
    Corpus,
    IndexSystem,
    ModelSystem,
    Preparation,
    RunSystem,
    System,
    weight_bytes,
)
from trainer.models.contracts.text import Role
from trainer.models.cut import read_cut
from trainer.models.encoder import PairEncoder, VectorEncoder
from trainer.models.families import read_reranker
from trainer.progress import phase
from trainer.retrieval.indexes.index import Index
from trainer.retrieval.indexes.index_corpus import model_of_index, open_index
from trainer.retrieval.indexes.views import has_views
from trainer.retrieval.view_weights import open_views
from trainer.strategies import devices

DEPTH = 101
"""Documents retrieved per query: 100 are measured, and one may be the query itself."""


@dataclass(frozen=True)
class SystemSettings:
    """How systems compute."""

    precision: devices.Precision | Literal["auto"] = "auto"
    layers: int | None = None
    """The number of layers of the models that are used; None: all. The same for dimensions."""
    dimensions: int | None = None
    rerank_depth: int = 100
    """The number of documents that a cross-encoder reorders."""
    query_role: Role = "query"
    """With `document`, queries are references of images, for models and indexes of images."""


DEFAULTS = SystemSettings()


class SystemOpener:
    """Opens systems on one corpus. A single system that is part of several is opened once.

    The weights of a fusion are chosen on the queries of `judged_set`. `encoded_documents` remembers
    vectors for an opener of another corpus.
    """

    def __init__(
        self,
        corpus: Corpus,
        settings: SystemSettings = DEFAULTS,
        judged_set: RetrievalSet | None = None,
        encoded_documents: EncodedDocuments | None = None,
    ) -> None:
        self._corpus, self._judged_set = corpus, judged_set
        self._encoded_documents = encoded_documents
        self._settings = settings
        self._accelerator = devices.find_accelerator()
        self._precision = devices.choose_precision(self._settings.precision, self._accelerator)
        self._single_systems: dict[SystemName, _Memory] = {}
        self._rerankers: dict[str, PairEncoder] = {}
        self._weight_bytes: dict[str, int] = {}

    def open(self, name: SystemName) -> System:
        """Returns a system, ready to search.

        Raises BadModel, BadData or BadFolder when it cannot be opened, and BadRecipe for weights
        without queries to choose them.
        """
        match name.kind:
            case "hybrid":
                return RankFusion([self.open(part) for part in name.parts])
            case "weighted":
                if self._judged_set is None:
                    raise BadRecipe(f"{name}: there are no judged queries to choose the weights on")
                parts = [self.open(part) for part in name.parts]
                return ScoreFusion.learn(parts, self._judged_set)
            case "rerank":
                return self._rerank(name)
        if name not in self._single_systems:
            self._single_systems[name] = _Memory(self._open_single(name))
        return self._single_systems[name]

    def reranker(self, model: str) -> PairEncoder:
        """Returns a cross-encoder, which is read once. Raises BadModel."""
        if model not in self._rerankers:
            with phase("loading the model"):
                self._rerankers[model] = read_reranker(model).to(self._accelerator)
        return self._rerankers[model]

    def weight_bytes(self, name: SystemName) -> int:
        """Returns the bytes of the weights of the models in a system, without those of indexes and
        re-rankers. Nothing is encoded. Raises BadModel.
        """
        models = [part.value for part in name.single_systems if part.kind == "model"]
        for model in models:
            if model not in self._weight_bytes:
                self._weight_bytes[model] = weight_bytes(self._model(model))
        return sum(self._weight_bytes[model] for model in models)

    def image_to_text(
        self, name: SystemName, judged_set: RetrievalSet, query_ids: Sequence[str]
    ) -> dict[str, Float64[np.ndarray, " query"]]:
        """Returns the metrics of a model or its index from image to caption
        (`image_to_text_metrics`).
        """
        system = self._single_systems[name].system
        assert isinstance(system, ModelSystem | IndexSystem)
        return system.image_to_text(judged_set, query_ids)

    @contextmanager
    def without_memory(self) -> Iterator[None]:
        """Context in which each system searches again for queries that it has answered."""
        systems = tuple(self._single_systems.values())
        for system in systems:
            system.remembers = False
        try:
            yield
        finally:
            for system in systems:
                system.remembers = True

    def close(self, names_in_use: Iterable[SystemName]) -> None:
        """Forgets the single systems that are not part of any of these."""
        in_use = {single for name in names_in_use for single in name.single_systems}
        self._single_systems = {
            name: system for name, system in self._single_systems.items() if name in in_use
        }

    def _open_single(self, name: SystemName) -> System:
        match name.kind:
            case "bm25":
                return Bm25System(self._corpus)
            case "run":
                return RunSystem(str(name), Path(name.value), self._corpus)
            case "index":
                folder = Path(name.value)
                if has_views(folder):
                    return self._views(folder)
                return self._index(open_index(folder), name.index_model)
            case _:
                with phase("loading the model"):
                    encoder = self._model(name.value)
                label = self._with_cuts(name.value)
                encoder = encoder.to(self._accelerator)
                return ModelSystem(
                    label,
                    encoder,
                    self._corpus,
                    self._precision,
                    self._encoded_documents,
                    self._settings.query_role,
                )

    def _model(self, name: str) -> VectorEncoder:
        has_images = self._corpus.has_images
        return read_cut(name, self._settings.layers, self._settings.dimensions, has_images)

    def _views(self, folder: Path) -> System:
        """Returns a folder of views as `nearfar search --hybrid` searches it."""
        views = open_views(folder)
        parts = [self._index(index) for index in views.indexes]
        if views.has_words:
            parts.append(self.open(SystemName("bm25")))
        if len(parts) == 1 and not views.note:
            return parts[0]
        if views.weights is None:
            return RankFusion(parts, views.note)
        return ScoreFusion(parts, views.weights, views.note)

    def _index(self, index: Index, model: str = "") -> System:
        settings, folder = self._settings, index.folder
        layers = None if settings.layers == index.manifest.layers else settings.layers
        try:
            with phase("loading the model"):
                encoder = model_of_index(
                    folder, index.manifest, model or None, layers, settings.dimensions
                )
        except BadModel as error:
            if model:
                raise
            advice = f"`nearfar evaluate MODEL --index {folder}`"
            raise BadModel(str(error).replace("with --model", f"in {advice}")) from error
        name = f"{self._with_cuts(model)} by {folder.name}" if model else f"index:{folder}"
        encoder = encoder.to(self._accelerator)
        role = settings.query_role
        return IndexSystem(name, index, encoder, self._corpus, self._precision, role)

    def _rerank(self, name: SystemName) -> System:
        encoder = self.reranker(name.value)
        return RerankedSystem(
            self.open(name.parts[0]),
            name.value,
            encoder,
            self._corpus,
            self._settings.rerank_depth,
            self._precision,
        )

    def _with_cuts(self, model: str) -> str:
        cuts = [
            f"{count} {unit}"
            for count, unit in (
                (self._settings.layers, "layers"),
                (self._settings.dimensions, "dimensions"),
            )
            if count is not None
        ]
        return f"{model} at {', '.join(cuts)}" if cuts else model


class _Memory:
    """A system that searches for the same queries once."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.remembers = True
        self._runs: dict[tuple[frozenset[tuple[str, str]], int], RetrievalRun] = {}

    @property
    def name(self) -> str:
        return self.system.name

    @property
    def note(self) -> str:
        return self.system.note

    @property
    def preparation(self) -> Preparation:
        return self.system.preparation

    def search(self, queries: Mapping[str, str], k: int) -> RetrievalRun:
        if not self.remembers:
            return self.system.search(queries, k)
        key = frozenset(queries.items()), k
        if key not in self._runs:
            self._runs[key] = self.system.search(queries, k)
        return self._runs[key]
