"""Nearfar in Python: train, measure, mine, index and search in a few lines.

    import nearfar

    result = nearfar.fit("quickstart", {"optimization.epochs": 1})
    model = nearfar.load(result.model)
    vectors = model.encode(["stop a virtual machine"], role="query")

Nothing heavy is imported before a function is called. What cannot work raises a `NearfarError`,
whose message says what to do.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar, overload

if TYPE_CHECKING:
    import numpy as np

    from trainer.evaluation.judged_data import LocalData
    from trainer.evaluation.mteb.model import MtebModel
    from trainer.evaluation.results import Evaluation
    from trainer.mining.job import MiningResult
    from trainer.models.encoder import Encoder
    from trainer.recipe.schema.families import Recipe
    from trainer.retrieval.indexes.index import Hit
    from trainer.retrieval.indexes.index_corpus import IndexSummary
    from trainer.retrieval.indexes.searcher import Searcher
    from trainer.routing.measure import RouterEvaluation
    from trainer.routing.router import Router
    from trainer.run import RunResult

Role = Literal["query", "document"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Settings = TypeVar("Settings")


def _check_trainer() -> None:
    """Raises ImportError where the import name `trainer` is not ours: an unrelated distribution has
    it too, and a folder of the user may.
    """
    loaded = sys.modules.get("trainer")
    spec = loaded.__spec__ if loaded is not None else importlib.util.find_spec("trainer")
    origin = Path(spec.origin).resolve() if spec is not None and spec.origin else None
    if origin is not None and origin.is_file() and origin.read_bytes().startswith(b'"""Nearfar'):
        return
    from importlib.metadata import packages_distributions  # slow: it reads every distribution

    others = sorted(set(packages_distributions().get("trainer", [])) - {"nearfar"})
    owner = f", of the distribution {', '.join(others)}" if others else ""
    remedy = (
        f"run `pip uninstall {' '.join(others)}` and install nearfar again, or give it an"
        " environment of its own"
        if others
        else "rename that one, or start Python where it is not on the path"
    )
    message = (
        f"nearfar cannot start: the import name `trainer` belongs to {origin or 'nothing'}{owner},"
        f" not to nearfar; {remedy}"
    )
    if Path(sys.argv[0]).name == "nearfar":  # the command: one line, no traceback
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(2)
    raise ImportError(message)


_check_trainer()

from trainer.errors import NearfarError  # noqa: E402 - only once `trainer` is known to be ours

__all__ = [
    "Model",
    "NearfarError",
    "SearchResult",
    "add",
    "delete",
    "evaluate",
    "fit",
    "index",
    "load",
    "mine",
    "mteb_model",
    "mteb_task",
    "route_ask",
    "route_evaluate",
    "route_fit",
    "search",
]

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


@dataclass(frozen=True, repr=False)
class Model:
    """A model, ready for use."""

    name: str
    encoder: Encoder

    @overload
    def encode(self, texts: str, role: Role = "document") -> np.ndarray: ...
    @overload
    def encode(
        self, texts: Sequence[str], role: Role = "document"
    ) -> np.ndarray | list[np.ndarray]: ...
    def encode(
        self, texts: str | Sequence[str], role: Role = "document"
    ) -> np.ndarray | list[np.ndarray]:
        """The float32 embeddings of texts, in their order; of one text its own.

        A model of one vector per text gives an array (texts, dimensions). A model of one vector per
        token gives a list of arrays (tokens, dimensions). Raises BadModel for a cross-encoder,
        which has no vectors.
        """
        from trainer.errors import BadModel
        from trainer.models.encoder import VectorEncoder
        from trainer.retrieval.encoding.encode import encode

        if not isinstance(self.encoder, VectorEncoder):
            raise BadModel(
                f"{self.name} gives {self.encoder.output} of a query and a document, and has no"
                " vectors; use score(pairs)"
            )
        vectors = encode(self.encoder, [texts] if isinstance(texts, str) else list(texts), role)
        if isinstance(texts, str):
            return vectors[0]
        if vectors.UNIT == "text":
            return vectors.rows
        return [vectors[place] for place in range(len(vectors))]

    def score(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """A cross-encoder's score of each (query, document) pair; the higher, the better the
        document answers the query. Raises BadModel for a model of another kind.
        """
        from trainer.errors import BadModel
        from trainer.models.encoder import PairEncoder
        from trainer.retrieval.rerank import score_pairs

        if not isinstance(self.encoder, PairEncoder):
            raise BadModel(f"{self.name} gives vectors, not scores; compare what encode() returns")
        return score_pairs(self.encoder, pairs)

    def __repr__(self) -> str:
        contract = self.encoder.contract
        return (
            f"Model({self.name!r}, {contract.KIND or 'dense'}, {contract.dimensions} dimensions,"
            f" queries up to {contract.query_max_length_tokens} tokens,"
            f" documents up to {contract.document_max_length_tokens})"
        )


@dataclass(frozen=True, repr=False)
class SearchResult:
    """The documents that answer a question, best first. Iterates over hits."""

    question: str
    hits: tuple[Hit, ...]

    def __len__(self) -> int:
        return len(self.hits)

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def __getitem__(self, place: int) -> Hit:
        return self.hits[place]

    def __repr__(self) -> str:
        lines = (f"{rank:>3}. {score}  {id}  {text}" for rank, score, id, text in self._rows())
        return "\n".join([_one_line(self.question, 90), *lines])

    def _repr_html_(self) -> str:
        cells = (
            f"<tr><td>{rank}</td><td>{score}</td><td>{escape(id)}</td><td>{escape(text)}</td></tr>"
            for rank, score, id, text in self._rows()
        )
        question = escape(_one_line(self.question, 90))
        return f"<table><caption>{question}</caption>{''.join(cells)}</table>"

    def _rows(self) -> Iterator[tuple[int, str, str, str]]:
        for rank, hit in enumerate(self.hits, 1):
            document = hit.document
            yield (
                rank,
                f"{hit.score:.3f}",
                _one_line(document.id, 30),
                _one_line(document.full_text or document.image, 90),
            )


def load(model: str | Path) -> Model:
    """The model in a folder, or of a name. Raises BadModel."""
    from trainer.models.families import read_any
    from trainer.strategies import devices

    return Model(str(model), read_any(str(model)).to(devices.find_accelerator()))


def fit(
    recipe: str | Path | Mapping[str, Any],
    overrides: Mapping[str, Any] | Sequence[str] = (),
    replace: bool = False,
    resume: bool = False,
) -> RunResult:
    """Trains a model by a recipe: a file, the name of one that comes with nearfar, or the content
    of one as a dictionary.

    `overrides` changes its keys: {"optimization.epochs": 2}, or ["optimization.epochs=2"]. With
    `replace`, a former run of the same name is moved aside; with `resume`, it is continued from its
    newest checkpoint. Ctrl-C, or interrupting a notebook, raises Interrupted with everything saved.
    """
    settings = _recipe(recipe, overrides)
    from trainer.runtime.start import start_process

    plan = start_process(Path(settings.output) / settings.name, replace, resume)
    from trainer.run import Former, run_recipe

    return run_recipe(settings, plan, Former(replace, resume))


def evaluate(
    systems: str | Path | Sequence[str | Path],
    data: str | Path,
    split: Literal["train", "dev", "test"] = "test",
    *,
    corpus: str | Path | None = None,
    bm25: bool = True,
    max_queries: int | None = None,
    rerank: str | Path | None = None,
    precision: Precision = "auto",
) -> Evaluation:
    """Measures systems on judged queries, and compares each, and BM25, with the first by a paired
    test.

    A system is a model, or another one as for `nearfar evaluate`, such as "hybrid:A+bm25". `data`
    is a folder in BEIR layout, or a file of pairs, which needs a `corpus` of all documents: without
    one, only the answers in the file are searched. `rerank` names a cross-encoder that is measured
    behind each system.
    """
    from trainer.evaluation.evaluate_systems import evaluate_systems
    from trainer.evaluation.systems.open import SystemSettings
    from trainer.runs.run_model import model_of

    names = [systems] if isinstance(systems, str | Path) else systems
    return evaluate_systems(
        [str(name) for name in names],
        _judged_data(data, split, corpus, max_queries),
        bm25=bm25,
        reranker=None if rerank is None else str(rerank),
        settings=SystemSettings(precision),
        find_model=model_of,
        tell=_tell,
    ).evaluation


def mteb_model(system: str | Path, precision: Precision = "auto") -> MtebModel:
    """A system as a model of mteb: `mteb.evaluate(nearfar.mteb_model("runs/x/model"), tasks)`.

    It is for retrieval and reranking tasks. Any system will do, such as "bm25" or "hybrid:A+bm25".
    Needs `pip install 'nearfar[mteb]'`.
    """
    from trainer.evaluation.mteb.model import MtebModel
    from trainer.evaluation.systems.open import SystemSettings
    from trainer.runs.run_model import model_of

    return MtebModel(str(system), SystemSettings(precision), model_of)


def mteb_task(
    data: str | Path,
    split: Literal["train", "dev", "test"] = "test",
    *,
    corpus: str | Path | None = None,
    max_queries: int | None = None,
) -> Any:
    """Judged queries, as for `evaluate`, as a retrieval task of mteb, which asks no network."""
    from trainer.evaluation.mteb.tasks import task_from_set

    return task_from_set(_judged_data(data, split, corpus, max_queries).read(), split)


def mine(
    model: str | Path,
    data: str | Path,
    output: str | Path,
    *,
    corpus: str | Path | None = None,
    teacher: str | Path | None = None,
    precision: Precision = "fp32",
    replace: bool = False,
    **rules: Any,
) -> MiningResult:
    """Finds hard negatives for the training pairs in `data` and writes them to the folder `output`.

    `rules` are those of `nearfar mine`, such as negatives=4 (per query) or depth=100 (documents
    that are looked at per query).
    """
    from trainer.mining.choose import MiningRules
    from trainer.mining.job import PairSource, mine_negatives

    return mine_negatives(
        str(model),
        PairSource(str(data), corpus=None if corpus is None else str(corpus)),
        Path(output),
        _settings(MiningRules, rules, "mining"),
        teacher=None if teacher is None else str(teacher),
        precision=precision,
        replace=replace,
        tell=_tell,
    )


def index(
    model: str | Path,
    corpus: str | Path,
    output: str | Path,
    *,
    precision: Precision = "fp32",
    replace: bool = False,
    view: str | None = None,
    **settings: Any,
) -> IndexSummary:
    """Encodes a corpus and writes an index of it to the folder `output`.

    `corpus` is a JSON Lines or .txt file, or a folder in BEIR layout; for a model of images, a
    folder of image files, or a table with a column `image`. `view` names one of several indexes of
    the same documents in that folder. `settings` are those of `nearfar index`:
    kind="hnsw", or bits=4 for token vectors.
    """
    from trainer.retrieval.indexes.index_corpus import IndexSettings, index_corpus

    return index_corpus(
        str(model),
        Path(corpus),
        Path(output),
        _settings(IndexSettings, settings, "an index"),
        precision=precision,
        replace=replace,
        view=view,
    )


def add(
    index: str | Path,
    corpus: str | Path,
    *,
    replace: bool = False,
    model: str | Path | None = None,
    precision: Precision = "fp32",
) -> list[IndexSummary]:
    """Adds the documents of a corpus to an index, or to all views of a folder or none of them.

    With `replace`, they take the place of documents with the same ids; without, such an id raises
    BadData. `model` says where the model of the index is now, if it was moved.
    """
    from trainer.retrieval.changes.change import add_documents

    name = None if model is None else str(model)
    return add_documents(
        Path(index), Path(corpus), model=name, precision=precision, replace=replace
    )


def delete(index: str | Path, ids: str | Iterable[str]) -> list[IndexSummary]:
    """Deletes documents from an index, or from all views of a folder.

    `ids` is one id or several. If one of them is not in the index, none is deleted: BadData.
    """
    from trainer.retrieval.changes.change import delete_documents

    return delete_documents(Path(index), [ids] if isinstance(ids, str) else ids)


def route_fit(
    routes: str | Path | Sequence[str | Path],
    data: str | Path,
    output: str | Path,
    split: Literal["train", "dev", "test"] = "dev",
    *,
    corpus: str | Path | None = None,
    max_queries: int | None = None,
    precision: Precision = "auto",
    replace: bool = False,
) -> Router:
    """Learns from judged queries which of several routes to ask, and writes the router to `output`.

    A route is a model, "bm25" or "index:FOLDER"; a folder of views stands for each of them. No
    model may be trained on the queries of the split. Needs `pip install 'nearfar[router]'`.
    """
    from trainer.evaluation.systems.open import SystemSettings
    from trainer.routing.job import learn_router

    several = [routes] if isinstance(routes, str | Path) else routes
    return learn_router(
        [str(route) for route in several],
        _judged_data(data, split, corpus, max_queries),
        Path(output),
        SystemSettings(precision),
        _tell,
        replace,
    )


def route_evaluate(
    router: str | Path | Router,
    data: str | Path,
    split: Literal["train", "dev", "test"] = "test",
    *,
    cost: float = 0.5,
    corpus: str | Path | None = None,
    max_queries: int | None = None,
    precision: Precision = "auto",
) -> RouterEvaluation:
    """Measures a router beside each of its routes, and beside asking all of them.

    `cost` bounds the mean cost of a query, as a share of that of asking all routes.
    """
    from trainer.evaluation.systems.open import SystemSettings
    from trainer.routing.job import measure_router

    return measure_router(
        _router(router),
        _judged_data(data, split, corpus, max_queries),
        cost,
        SystemSettings(precision),
        _tell,
    )


@overload
def route_ask(  # type: ignore[overload-overlap]  # a str is a sequence of str, too
    router: str | Path | Router, queries: str, *, cost: float = 0.5
) -> str: ...
@overload
def route_ask(
    router: str | Path | Router, queries: Sequence[str], *, cost: float = 0.5
) -> list[str]: ...
@overload
def route_ask(router: str | Path | Router, *, image: str | Path | bytes) -> str: ...
def route_ask(
    router: str | Path | Router,
    queries: str | Sequence[str] | None = None,
    *,
    image: str | Path | bytes | None = None,
    cost: float = 0.5,
) -> str | list[str]:
    """The route that a query should take, or each of several: a name, or "all". For an image, a
    file or its bytes, it is always all routes that hold images, whatever they cost.
    """
    if (queries is None) == (image is None):
        raise TypeError("route_ask() takes queries or an image; give one of the two")
    if queries is None:
        from trainer.images.reference import read_query_image

        assert image is not None
        read_query_image(image)
        return " + ".join(_router(router).settings.checked_image_routes)
    several = [queries] if isinstance(queries, str) else list(queries)
    names = _router(router).route_names(several, cost)
    return names[0] if isinstance(queries, str) else names


@overload
def search(  # type: ignore[overload-overlap]  # a str is a sequence of str, too
    index: str | Path,
    questions: str,
    k: int = 10,
    *,
    model: str | Path | None = None,
    rerank: str | Path | None = None,
    view: str | None = None,
    hybrid: bool = False,
    weights: Mapping[str, float] | str | None = None,
    router: str | Path | Router | None = None,
    cost: float | None = None,
) -> SearchResult: ...
@overload
def search(
    index: str | Path,
    questions: Sequence[str],
    k: int = 10,
    *,
    model: str | Path | None = None,
    rerank: str | Path | None = None,
    view: str | None = None,
    hybrid: bool = False,
    weights: Mapping[str, float] | str | None = None,
    router: str | Path | Router | None = None,
    cost: float | None = None,
) -> list[SearchResult]: ...
@overload
def search(
    index: str | Path,
    *,
    image: str | Path | bytes,
    k: int = 10,
    model: str | Path | None = None,
    view: str | None = None,
    hybrid: bool = False,
    router: str | Path | Router | None = None,
) -> SearchResult: ...
def search(
    index: str | Path,
    questions: str | Sequence[str] | None = None,
    k: int = 10,
    *,
    image: str | Path | bytes | None = None,
    model: str | Path | None = None,
    rerank: str | Path | None = None,
    view: str | None = None,
    hybrid: bool = False,
    weights: Mapping[str, float] | str | None = None,
    router: str | Path | Router | None = None,
    cost: float | None = None,
) -> SearchResult | list[SearchResult]:
    """The k best documents of an index for a question, or for each of several; or those most like
    an image, a file or its bytes.

    `model` says where the model of the index is now, if it was moved. `rerank` names a
    cross-encoder that puts the best documents in a new order. Of a folder of views, `view` is
    searched, or with `hybrid` all of them, or those that a `router` chooses for each question at a
    mean `cost` (default 0.5); for an image, it is all that hold images. `weights`, such as
    {"dense": 0.7, "bm25": 0.3}, are those of `hybrid`; "ranks" combines by reciprocal ranks, and
    None as the folder says. What was searched stays open for the next search.
    """
    if (questions is None) == (image is None):
        raise TypeError("search() takes questions or an image; give one of the two")
    if k < 1:
        raise ValueError(f"k is {k}; ask for at least one document")
    if router is not None:
        options_in_words = image is not None and (rerank is not None or cost is not None)
        _check_alone(model, view, hybrid, weights is not None, options_in_words)
    elif cost is not None:
        raise TypeError("cost is that of a router; give router too")
    folder = Path(index).resolve()
    written = _written(folder)
    key = None if weights is None else _weights(weights)
    choices = model and str(model), rerank and str(rerank), view, hybrid, key
    if image is not None:
        if router is None:
            searcher = _searcher(folder, written, *choices, True)
        else:
            settings = _router(router).settings
            routes = tuple(settings.routes), settings.checked_image_routes
            searcher = _image_searcher(folder, written, *routes)
        return _image_result(searcher, image, k)
    assert questions is not None
    several = [questions] if isinstance(questions, str) else list(questions)
    if router is None:
        hits = _searcher(folder, written, *choices, False).search(several, k)
    else:
        limit = 0.5 if cost is None else cost
        hits = _routed_hits(folder, written, _router(router), several, k, limit, rerank)
    results = [SearchResult(*each) for each in zip(several, map(tuple, hits), strict=True)]
    return results[0] if isinstance(questions, str) else results


def _weights(weights: Mapping[str, float] | str) -> tuple[tuple[str, float], ...]:
    from trainer.retrieval.indexes.views import parse_weights

    return tuple(parse_weights(weights).items())


def _written(folder: Path) -> tuple[int, ...]:
    """When the manifests of an index or of its views were written."""
    manifests = (folder / "manifest.json", *sorted(folder.glob("views/*/manifest.json")))
    return tuple(each.stat().st_mtime_ns for each in manifests if each.is_file())


def _image_result(searcher: Searcher, image: str | Path | bytes, k: int) -> SearchResult:
    from trainer.images.reference import label, read_query_image

    reference = read_query_image(image)
    name = label(reference) if isinstance(image, bytes) else str(image)
    return SearchResult(name, tuple(searcher.search_by_image(reference, k)))


@lru_cache(maxsize=1)
def _searcher(
    folder: Path,
    written: tuple[int, ...],
    model: str | None,
    rerank: str | None,
    view: str | None,
    hybrid: bool,
    weights: tuple[tuple[str, float], ...] | None,
    by_image: bool,
) -> Searcher:
    """An open index with its model, for as long as its manifests are those `written` then."""
    from trainer.retrieval.indexes.searcher import Searcher

    return Searcher.open(
        folder,
        model=model,
        reranker=rerank,
        view=view,
        hybrid=hybrid,
        weights=None if weights is None else dict(weights),
        by_image=by_image,
    )


def _routed_hits(
    folder: Path,
    written: tuple[int, ...],
    router: Router,
    questions: Sequence[str],
    k: int,
    cost: float,
    rerank: str | Path | None,
) -> list[list[Hit]]:
    """The hits of each question by the route that is chosen for it. Each route is opened once."""
    routes = tuple(router.settings.routes)
    choices = router.choose(questions, cost).tolist()
    hits: list[list[Hit]] = [[] for _ in questions]
    for choice in dict.fromkeys(choices):
        rows = [row for row, each in enumerate(choices) if each == choice]
        searcher = _route_searcher(folder, written, routes, choice, rerank and str(rerank))
        answers = searcher.search([questions[row] for row in rows], k)
        for row, answer in zip(rows, answers, strict=True):
            hits[row] = answer
    return hits


@lru_cache(maxsize=4)
def _route_searcher(
    folder: Path,
    written: tuple[int, ...],
    routes: tuple[str, ...],
    choice: int,
    rerank: str | None,
) -> Searcher:
    """One route through an index, open for as long as its manifests are those `written` then."""
    from trainer.routing.search import open_route

    return open_route(folder, routes, choice, rerank)[0]


@lru_cache(maxsize=1)
def _image_searcher(
    folder: Path, written: tuple[int, ...], routes: tuple[str, ...], image_routes: tuple[str, ...]
) -> Searcher:
    """All routes that hold images, open for as long as the manifests are those `written` then."""
    from trainer.routing.search import open_image_routes

    return open_image_routes(folder, routes, image_routes)


def _judged_data(
    data: str | Path,
    split: Literal["train", "dev", "test"],
    corpus: str | Path | None,
    max_queries: int | None,
) -> LocalData:
    from trainer.evaluation.judged_data import LocalData

    documents = None if corpus is None else str(corpus)
    return LocalData(str(data), split, {}, documents, max_queries)


def _router(router: str | Path | Router) -> Router:
    from trainer.routing.router import Router

    return router if isinstance(router, Router) else Router.open(Path(router))


def _check_alone(*choices: object) -> None:
    """Raises BadRecipe for arguments that a router makes senseless."""
    from trainer.errors import BadRecipe

    if any(choices):
        raise BadRecipe(
            "a router chooses views; leave view, hybrid, weights and model out, and for an image"
            " rerank and cost"
        )


def _recipe(
    recipe: str | Path | Mapping[str, Any], overrides: Mapping[str, Any] | Sequence[str]
) -> Recipe:
    from trainer.recipe.load import load_recipe, recipe_from_values

    changes = (
        [f"{key}={_yaml(value)}" for key, value in overrides.items()]
        if isinstance(overrides, Mapping)
        else list(overrides)
    )
    if isinstance(recipe, Mapping):
        return recipe_from_values(recipe, changes)
    return load_recipe(recipe, changes)


def _settings(kind: type[Settings], values: Mapping[str, Any], purpose: str) -> Settings:
    """A dataclass of settings from keyword arguments. Raises BadRecipe for an unknown one."""
    from trainer.errors import BadRecipe

    names = kind.__dataclass_fields__  # type: ignore[attr-defined]
    if unknown := [name for name in values if name not in names]:
        raise BadRecipe(
            f"{unknown[0]!r} is not a setting of {purpose}; its settings are {', '.join(names)}"
        )
    return kind(**values)


def _yaml(value: Any) -> str:
    """A value as YAML: JSON is YAML too."""
    return json.dumps(value, default=str, ensure_ascii=False)


def _one_line(text: str, limit: int) -> str:
    from trainer.storage.visible import visible

    return visible(" ".join(text[: 10 * limit].split()), limit)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> NoReturn:
    """The command `nearfar`."""
    from trainer.cli.main import main as command

    command()


if __name__ == "__main__":
    main()
