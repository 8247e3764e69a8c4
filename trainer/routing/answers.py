"""What each route finds for each query, and what it costs: the data that a router learns from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter

import numpy as np
from jaxtyping import Float64, Int64

from trainer.data.retrieval_set import RetrievalSet
from trainer.errors import BadRecipe
from trainer.evaluation.evaluate import evaluate_run
from trainer.evaluation.results import MAIN_METRIC
from trainer.evaluation.systems.combined import FUSED_DOCUMENTS
from trainer.evaluation.systems.failures import check_system
from trainer.evaluation.systems.names import SystemName, parse_systems
from trainer.evaluation.systems.open import SystemOpener, SystemSettings
from trainer.evaluation.systems.system import Corpus
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

    Raises the errors of `check_routes`, and those of systems that cannot be opened.
    """
    names = check_routes(routes, find_model)
    opener = SystemOpener(Corpus.of(judged_set), settings)
    runs, milliseconds = [], []
    for name in names:
        tell(f"asking {name}")
        system = opener.open(name)
        runs.append(system.search(judged_set.queries_by_id, FUSED_DOCUMENTS))
        milliseconds.append(float(np.median(latencies_ms(name, opener, judged_set))))
        opener.close([])
    results = [
        evaluate_run(run, judged_set, "route", metrics=[MAIN_METRIC])
        for run in [*runs, fuse_ranks(runs, FUSED_DOCUMENTS)]
    ]
    texts, ids = judged_set.queries_by_id, results[0].query_ids
    return RouteAnswers(
        tuple(routes),
        judged_set,
        tuple(texts[query] for query in ids),
        np.stack([result.metrics[MAIN_METRIC] for result in results], 1).astype(np.float64),
        tuple(milliseconds),
        tuple(map(relevant_documents(judged_set).__getitem__, ids)),
    )


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
    names = [name.with_models(find_model) for name in names]
    for name in names:
        check_system(name)
    return names
