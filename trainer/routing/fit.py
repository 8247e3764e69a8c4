"""Learns a router from what each route found for judged queries."""

from collections.abc import Collection, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
from jaxtyping import Float64

from trainer.errors import BadData, BadRecipe
from trainer.routing.answers import RouteAnswers
from trainer.routing.features import WordCounts, query_features
from trainer.routing.router import Router, choose_routes
from trainer.routing.settings import CurvePoint, RouterSettings

_LEAST_QUERIES = 50
_FOLDS = 10
_STRENGTHS = tuple(10.0**power for power in range(-1, 6))
"""Strengths of the ridge penalty, of which the best by cross-validation is chosen."""
_PRICES = (0.0, *(float(price) for price in np.geomspace(1e-3, 10.0, 81)))


def fit_router(answers: RouteAnswers, words: WordCounts) -> Router:
    """Returns a router that has learned from answers.

    It is ridge regression on features and their products. The predictions are scaled so that they
    are calibrated: in ten folds that share no document, where the router predicts a difference of
    0.1 from the mean gain of a route, the true one is 0.1 in the mean. Where the features tell
    nothing, the scale is 0 and the router always chooses the same. The curve comes from the
    predictions of the folds too.

    Raises BadData as `check_enough_queries` does.
    """
    check_enough_queries(answers.judged_set.name, answers.documents)
    features = query_features(answers.queries, words)
    gains = answers.qualities[:, :-1] - answers.qualities[:, -1:]
    model, predictions = _fit(features, gains, answers.documents)
    scaler, ridge = model[0], model[-1]
    means = gains.mean(0)
    scales = _scales(predictions - means, gains - means)
    return Router(
        RouterSettings(
            routes=list(answers.routes),
            milliseconds=list(answers.milliseconds),
            queries=len(answers.queries),
            learned_from=answers.judged_set.name,
            qualities=answers.qualities.mean(0).tolist(),
            curve=_curve(answers, means + scales * (predictions - means)),
            image_routes=list(answers.image_routes),
        ),
        words,
        scaler.mean_,
        scaler.scale_,
        scales[:, None] * ridge.coef_,
        means + scales * (ridge.intercept_ - means),
    )


def _fit(
    features: Float64[np.ndarray, "query feature"],
    gains: Float64[np.ndarray, "query route"],
    documents: Sequence[str],
) -> tuple[Any, Float64[np.ndarray, "query route"]]:
    """Returns scikit-learn's model of gains, and its predictions for each query without itself and
    others of the same document.
    """
    check_can_learn()
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    polynomial = PolynomialFeatures(2, include_bias=False)
    model = make_pipeline(StandardScaler(), polynomial, RidgeCV(_STRENGTHS))
    folds = GroupKFold(_FOLDS, shuffle=True, random_state=0)
    predictions = cross_val_predict(model, features, gains, groups=documents, cv=folds)
    return model.fit(features, gains), predictions


def check_can_learn() -> None:
    """Raises BadRecipe without scikit-learn; call it before slow work."""
    if find_spec("sklearn") is None:
        raise BadRecipe("a router is learned with scikit-learn: pip install 'nearfar[router]'")


def check_enough_queries(name: str, documents: Collection[str]) -> None:
    """Raises BadData with fewer than 50 queries, or fewer than ten documents; call it before slow
    work. `documents` are the relevant documents, one per query of the set with this name.
    """
    if len(documents) < _LEAST_QUERIES:
        raise BadData(
            f"{name} has {len(documents)} judged queries, and a router needs at least"
            f" {_LEAST_QUERIES} to learn from; name a split with more"
        )
    if (count := len(set(documents))) < _FOLDS:
        raise BadData(
            f"the {len(documents)} queries of {name} have {count} different relevant documents,"
            f" and a router needs at least {_FOLDS} to learn what holds for others; name a split"
            " with more"
        )


def _scales(
    predictions: Float64[np.ndarray, "query route"], gains: Float64[np.ndarray, "query route"]
) -> Float64[np.ndarray, " route"]:
    """Returns the slope of true on predicted gains per route, from 0 to 1."""
    squares = np.maximum((predictions**2).sum(0), 1e-12)
    return ((predictions * gains).sum(0) / squares).clip(0.0, 1.0)


def _curve(
    answers: RouteAnswers, predictions: Float64[np.ndarray, "query route"]
) -> list[CurvePoint]:
    """Returns what prices lead to, without those that lead to the same choices."""
    points: dict[bytes, CurvePoint] = {}
    for price in _PRICES:
        chosen_routes = choose_routes(predictions, answers.costs[:-1], price)
        qualities, cost = answers.quality_and_cost(chosen_routes)
        point = CurvePoint(price=price, cost=cost, quality=float(qualities.mean()))
        points.setdefault(chosen_routes.tobytes(), point)
    return list(points.values())
