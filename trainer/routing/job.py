"""What `nearfar route fit` and `nearfar route evaluate` do, from judged queries to the result."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from trainer.evaluation.judged_data import JudgedData
from trainer.evaluation.systems.open import SystemSettings
from trainer.routing.answers import ask_routes, check_routes, read_judged_set, relevant_documents
from trainer.routing.features import WordCounts
from trainer.routing.fit import check_can_learn, check_enough_queries, fit_router
from trainer.routing.measure import RouterEvaluation, evaluate_router
from trainer.routing.router import Router, check_router_folder
from trainer.routing.search import routes_of_views
from trainer.runs.run_model import model_of


def learn_router(
    routes: Sequence[str],
    data: JudgedData,
    folder: Path,
    settings: SystemSettings,
    tell: Callable[[str], None],
    replace: bool = False,
) -> Router:
    """Returns a router that has learned from judged queries, written to `folder`.

    A route that is a folder of views stands for each of them. Raises the errors of
    `check_router_folder`, `ask_routes` and `fit_router`, those of the arguments first.
    """
    check_can_learn()
    check_router_folder(folder, replace)
    routes = [route for word in routes for route in routes_of_views(word)]
    judged_set = read_judged_set(data, check_routes(routes, model_of))
    check_enough_queries(judged_set.name, relevant_documents(judged_set).values())
    judged_set = dataclasses.replace(judged_set, image_queries=None)  # what answers them is a rule
    answers = ask_routes(routes, judged_set, settings, model_of, tell)
    texts = () if judged_set.has_images else judged_set.documents
    router = fit_router(answers, WordCounts.of(texts))
    router.save(folder, replace)
    return router


def measure_router(
    router: Router,
    data: JudgedData,
    limit: float,
    settings: SystemSettings,
    tell: Callable[[str], None],
) -> RouterEvaluation:
    """Measures a router on judged queries, which its routes search first. See `evaluate_router`."""
    router.settings.best_rule(limit)  # the error of an argument comes before slow work
    routes = router.settings.routes
    judged_set = read_judged_set(data, check_routes(routes, model_of))
    answers = ask_routes(routes, judged_set, settings, model_of, tell)
    return evaluate_router(router, answers, limit)
