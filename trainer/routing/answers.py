"""What each route finds for each query, and what it costs: the data that a router learns from."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter

import numpy as np
from jaxtyping import Float64, Int64

from trainer.data.retrieval_set import RetrievalSet
from trainer.errors import BadRecipe
from trainer.evaluation.evaluate import evaluate_run
from trainer.evaluation.evaluate_systems import must_read_images, searches_images
from trainer.evaluation.judged_data import JudgedData, data_of_images
from trainer.evaluation.metrics import RetrievalRun
from trainer.evaluation.results import MAIN_METRIC
from trainer.evaluation.systems.combined import FUSED_DOCUMENTS
from trainer.evaluation.systems.failures import check_system
from trainer.evaluation.systems.names import SystemName, parse_systems
from trainer.evaluation.systems.open import SystemOpener, SystemSettings
from trainer.evaluation.systems.system import Corpus
from trainer.models.families import reads_images
from trainer.retrieval.fusion import fuse_ranks
from trainer.routing.router import ALL_ROUTES
from trainer.selection.measure import latencies_ms


@dataclass(frozen=True, eq=False)
class RouteAnswers:
    """nDCG@10 of each route per query, and of all of them combined."""

    routes: tuple[str, ...]
    judged_set: RetrievalSet
    queries: tuple[str, ...]
    """The texts of the queries."""
    qualities: Float64[np.ndarray, "query routes_and_all"]
    """nDCG@10. The last column is that of asking all routes."""
    milliseconds: tuple[float, ...]
    """The median time of one query, per route."""
    documents: tuple[str, ...]
    """The id of a relevant document per query: queries that share it resemble each other."""
    image_routes: tuple[str, ...] = ()
    """The routes that hold images, which alone can be asked by an image."""
    images: "RouteAnswers | None" = None
    """What they find for the queries that are images. The other routes find nothing, at no cost."""

    @property
    def costs(self) -> Float64[np.ndarray, " routes_and_all"]:
        """The cost of each route, and of asking all, as a share of that of asking all."""
        return np.array([*self.milliseconds, sum(self.milliseconds)]) / sum(self.milliseconds)

    def quality_and_cost(
        self, chosen_routes: Int64[np.ndarray, " query"]
    ) -> tuple[Float64[np.ndarray, " query"], float]:
        """Returns nDCG@10 per query when these routes are asked, and their mean cost."""
        assert ALL_ROUTES == -1  # the last column
        rows = np.arange(len(self.queries))
        return self.qualities[rows, chosen_routes], float(self.costs[chosen_routes].mean())


def ask_routes(
    routes: Sequence[str],
    judged_set: RetrievalSet,
    settings: SystemSettings,
    find_model: Callable[[str], str],
    tell: Callable[[str], None],
) -> RouteAnswers:
    """Searches with each route for the queries of a set, and measures the time of one query.

    Queries that are images are asked of the routes that hold images. Raises the errors of
    `check_routes`, those of systems that cannot be opened, and BadRecipe if queries are images and
    no route holds any.
    """
    systems = dict(zip(routes, check_routes(routes, find_model), strict=True))
    image_routes = tuple(route for route, name in systems.items() if searches_images(name))
    image_queries = judged_set.image_queries
    if image_queries is not None and not image_routes:
        raise BadRecipe(
            f"{len(image_queries.queries):,} queries of {judged_set.name} are images, and none of"
            f" the routes holds images ({', '.join(routes)}); name a view of images among the"
            " routes, or remove the judgements of these queries"
        )
    answers = _ask(systems, systems, judged_set, settings, tell)
    images = None
    if image_queries is not None:
        settings = replace(settings, query_role="document")
        images = _ask(systems, image_routes, image_queries, settings, tell)
    return replace(answers, image_routes=image_routes, images=images)


def _ask(
    systems: Mapping[str, SystemName],
    able_routes: Collection[str],
    judged_set: RetrievalSet,
    settings: SystemSettings,
    tell: Callable[[str], None],
) -> RouteAnswers:
    """Asks the routes that can answer the queries. The others find nothing, and cost nothing."""
    opener = SystemOpener(Corpus.of(judged_set), settings)
    runs: list[RetrievalRun] = []
    for route, name in systems.items():
        if route in able_routes:
            tell(f"asking {name}" + (" by image" if settings.query_role == "document" else ""))
            runs.append(opener.open(name).search(judged_set.queries_by_id, FUSED_DOCUMENTS))
        else:
            runs.append({})
    latencies = latencies_ms([systems[route] for route in able_routes], opener, judged_set)
    medians = dict(zip(able_routes, map(np.median, latencies), strict=True))
    results = [
        evaluate_run(run, judged_set, "route", metrics=[MAIN_METRIC])
        for run in [*runs, fuse_ranks(runs, FUSED_DOCUMENTS)]
    ]
    texts, ids = judged_set.queries_by_id, results[0].query_ids
    return RouteAnswers(
        tuple(systems),
        judged_set,
        tuple(texts[query] for query in ids),
        np.stack([result.metrics[MAIN_METRIC] for result in results], 1).astype(np.float64),
        tuple(float(medians.get(route, 0.0)) for route in systems),
        tuple(map(relevant_documents(judged_set).__getitem__, ids)),
    )


def read_judged_set(data: JudgedData, names: Sequence[SystemName]) -> RetrievalSet:
    """Reads judged queries whose documents are texts, or, if all routes hold images, images.

    Raises BadRecipe when a route cannot read the documents.
    """
    if not must_read_images(names, data):
        return data.read()
    for name in names:
        if not searches_images(name):
            raise BadRecipe(
                f"{name} cannot search images, and the data are no folder with texts; give judged"
                " texts with the ids of the images: a folder in BEIR layout, whose corpus.jsonl"
                " has their names or captions"
            )
    return data_of_images(data).read()


def relevant_documents(judged_set: RetrievalSet) -> dict[str, str]:
    """Returns the id of a most relevant document per judged query."""
    return {
        query: max(sorted(judgements.items()), key=itemgetter(1))[0]
        for query in judged_set.query_ids
        if (judgements := judged_set.qrels.get(query))
    }


def check_routes(routes: Sequence[str], find_model: Callable[[str], str]) -> list[SystemName]:
    """Returns the routes as names of systems; call it before slow work.

    Raises BadRecipe for fewer than two routes, or for a route that combines others, and BadModel or
    BadFolder when one does not exist.
    """
    names = parse_systems(routes)
    if len(names) < 2:
        raise BadRecipe("a router chooses between two or more routes; name another system")
    for name in names:
        if name.parts or name.kind == "run":
            raise BadRecipe(
                f"{name} cannot be a route: name models, indexes or bm25. The router combines them"
                " itself where it is unsure"
            )
        if name.kind == "model" and reads_images(find_model(name.value)):
            raise BadRecipe(
                f"{name} is a model of images; index the images with it (`nearfar index`), and name"
                " index:FOLDER as the route"
            )
    names = [name.with_models(find_model) for name in names]
    for name in names:
        check_system(name)
    return names
