"""What a router gains on judged queries that it has not learned from."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64, Int64

from trainer.data.retrieval_set import RetrievalSet
from trainer.errors import BadRecipe
from trainer.evaluation.results import (
    MAIN_METRIC,
    Comparison,
    Interval,
    SystemResult,
    compare_systems,
)
from trainer.routing.answers import RouteAnswers
from trainer.routing.router import ALL_ROUTES, Router

ALL_NAME, ROUTER_NAME, ORACLE_NAME = "all, combined", "router", "best route per query"
_GROUPS, _TIMED_QUERIES = 5, 50


@dataclass(frozen=True)
class RouteRow:
    """A row of the table: a route, all routes, the router, or the best that a router could do."""

    name: str
    quality: Interval
    """nDCG@10."""
    cost: float | None
    """The mean cost of a query, as a share of that of asking all routes; None if unknown."""


@dataclass(frozen=True)
class ImageQueries:
    """Queries that are images, of which all routes that hold images are asked."""

    count: int
    routes: tuple[str, ...]
    quality: Interval
    """nDCG@10."""
    milliseconds: float
    """The time of one query."""

    def __str__(self) -> str:
        """What answers them, and how well."""
        quality, names = self.quality, ", ".join(self.routes)
        rule = (
            f"only {names} holds images, and answers them"
            if len(self.routes) == 1
            else f"all routes that hold images answer them together, {names}"
        )
        return (
            f"{self.count:,} queries are images: {rule}, which is a rule and no prediction. nDCG@10"
            f" {quality.mean:.3f} [{quality.low:.3f}, {quality.high:.3f}],"
            f" {self.milliseconds:.2f} ms per query."
        )


@dataclass(frozen=True, repr=False)
class RouterEvaluation:
    """A router beside each of its routes, and beside asking all of them."""

    set_name: str
    queries: int
    limit: float
    rows: tuple[RouteRow, ...]
    comparisons: tuple[Comparison, ...]
    """The router against asking all routes, and against the best route within the limit, which is
    chosen on the queries that the router learned from.
    """
    shares: dict[str, float]
    """The share of queries for which each route, or all, was asked."""
    choice_milliseconds: float
    """The time of a choice."""
    calibration_error: float
    """The mean difference of predicted and true gains in five groups of predictions."""
    limitation: str = ""
    """Why the figures are too high (`RetrievalSet.limitation`), or may be."""
    images: "ImageQueries | None" = None
    """Those of the queries that are images, if there are any."""
    in_words: "RouterEvaluation | None" = None
    """The same on the other queries alone, if there are images."""

    def row(self, name: str) -> RouteRow:
        """Returns the row with a name."""
        return next(row for row in self.rows if row.name == name)

    def __repr__(self) -> str:
        """The rows, one per line, the limitation, and the verdict."""
        lines = (
            f"  {row.name}: nDCG@10 {row.quality.mean:.3f}"
            f" [{row.quality.low:.3f}, {row.quality.high:.3f}]"
            + ("" if row.cost is None else f" at a cost of {row.cost:.2f}")
            for row in self.rows
        )
        remarks = filter(None, [self.limitation, str(self)])
        return "\n".join([f"{self.set_name}: {self.queries:,} queries", *lines, *remarks])

    def __str__(self) -> str:
        """The verdict in words. A route without images has no answer to an image, so routes are
        compared on the queries in words.
        """
        if self.images is None or self.in_words is None:
            return self._verdict()
        return (
            f"{self.images} On all {self.queries:,} queries the router costs"
            f" {self.row(ROUTER_NAME).cost:.2f} of asking all routes that can answer, and its"
            f" nDCG@10 differs by {_change(self.comparisons[0])}. On the"
            f" {self.in_words.queries:,} queries in words: {self.in_words}"
        )

    def _verdict(self) -> str:
        against_all, against_best = self.comparisons
        cost = self.row(ROUTER_NAME).cost
        rival = against_best.baseline
        is_better = against_best.is_proven and against_best.test.difference > 0
        opening = (
            f"The router costs {cost:.2f} of asking all routes; its nDCG@10 differs by"
            f" {_change(against_all)}."
        )
        best_before = "the best route within the limit on the queries that the router learned from"
        if is_better:
            opening += f" It is better than {rival} alone, {best_before}: {_change(against_best)}."
        else:
            opening += (
                f" Routing gains nothing that is proven over {rival} alone"
                f" ({_change(against_best)}), {best_before}."
            )
        cheaper_row = self._cheaper_row(ROUTER_NAME if is_better else rival)
        if cheaper_row is None:
            return opening if is_better else f"{opening} Use that one."
        name = "the router" if cheaper_row.name == ROUTER_NAME else f"{cheaper_row.name} alone"
        return (
            f"{opening} But {name} costs less, and is no worse on these queries:"
            f" {cheaper_row.quality.mean:.3f} at {cheaper_row.cost:.2f}."
        )

    def _cheaper_row(self, name: str) -> RouteRow | None:
        """Returns the best of the rows that cost less than another, and are no worse."""
        dear_row = self.row(name)
        assert dear_row.cost is not None
        rows = [
            row
            for row in self.rows
            if row.name != ALL_NAME
            and row.cost is not None
            and row.cost < dear_row.cost
            and row.quality.mean >= dear_row.quality.mean
        ]
        return max(rows, key=lambda row: row.quality.mean, default=None)


def evaluate_router(router: Router, answers: RouteAnswers, limit: float) -> RouterEvaluation:
    """Measures a router on answers of its own routes.

    `limit` bounds the mean cost as in `Router.choose`. The cost is counted with the times of
    `answers`, and with the time of the choice. Raises BadRecipe when the answers are of other
    routes.
    """
    if list(answers.routes) != router.settings.routes:
        raise BadRecipe(
            f"the router chooses between {', '.join(router.settings.routes)}, and the answers are"
            f" of {', '.join(answers.routes)}; give the same routes"
        )
    words = _Choices(
        answers,
        router.choose(answers.queries, limit),
        _choice_milliseconds(router, answers, limit),
    )
    evaluation = _evaluate(router, [words], limit)
    if answers.images is None:
        return evaluation
    image_routes = router.settings.checked_image_routes
    place = answers.routes.index(image_routes[0]) if len(image_routes) == 1 else ALL_ROUTES
    images = _Choices(answers.images, np.full(len(answers.images.queries), place))
    return replace(
        _evaluate(router, [words, images], limit),
        images=ImageQueries(
            len(images.routes),
            image_routes,
            _result("images", images.qualities).interval(),
            sum(answers.images.milliseconds),
        ),
        in_words=replace(evaluation, set_name=f"{evaluation.set_name}, in words"),
    )


@dataclass(frozen=True, eq=False)
class _Choices:
    """The routes of queries in words, or of images, and the time of a choice."""

    answers: RouteAnswers
    routes: Int64[np.ndarray, " query"]
    milliseconds: float = 0.0

    @property
    def qualities(self) -> Float64[np.ndarray, " query"]:
        """nDCG@10 per query."""
        return self.answers.quality_and_cost(self.routes)[0]

    @property
    def times(self) -> Float64[np.ndarray, " routes_and_router"]:
        """The milliseconds of all queries by each route, by all routes, and by the router."""
        answers, count = self.answers, len(self.routes)
        times = answers.costs * sum(answers.milliseconds)
        return np.array([*count * times, times[self.routes].sum() + count * self.milliseconds])


def _evaluate(router: Router, parts: Sequence[_Choices], limit: float) -> RouterEvaluation:
    answers = parts[0].answers
    names = [*answers.routes, ALL_NAME]
    qualities = np.concatenate([part.answers.qualities for part in parts])
    chosen_routes = np.concatenate([part.routes for part in parts])
    times = sum((part.times for part in parts), np.zeros(len(names) + 1))
    results = [_result(name, qualities[:, place]) for place, name in enumerate(names)]
    router_result = _result(ROUTER_NAME, np.concatenate([part.qualities for part in parts]))
    oracle = _result(ORACLE_NAME, qualities.max(1))
    costs = [*(times / times[-2]).tolist(), None]  # the last but one is that of all routes
    best = results[_best_route(router, limit)]
    return RouterEvaluation(
        answers.judged_set.name,
        len(chosen_routes),
        limit,
        tuple(
            RouteRow(result.name, result.interval(), cost)
            for result, cost in zip([*results, router_result, oracle], costs, strict=True)
        ),
        compare_systems([(results[ALL_ROUTES], router_result), (best, router_result)]),
        {name: float((chosen_routes == place).mean()) for place, name in _places(names)},
        parts[0].milliseconds,
        _calibration_error(router, answers),
        _limitation(router, answers.judged_set),
    )


def _limitation(router: Router, judged_set: RetrievalSet) -> str:
    """Returns why the figures are too high, also if the router may have learned from the set."""
    limitations = [judged_set.limitation] if judged_set.limitation else []
    if judged_set.name == router.settings.learned_from:
        limitations.append(
            "the router learned from a set of this name; on the same queries, figures are too high"
        )
    return "; ".join(limitations)


def _places(names: list[str]) -> list[tuple[int, str]]:
    return [*enumerate(names[:-1]), (ALL_ROUTES, names[-1])]


def _best_route(router: Router, limit: float) -> int:
    """Returns the place of the best route within the limit on the queries that it learned from."""
    costs = router.settings.costs
    qualities = np.where(costs <= limit + 1e-9, router.settings.qualities[:-1], -np.inf)
    return int(qualities.argmax()) if np.isfinite(qualities).any() else int(costs.argmin())


def _choice_milliseconds(router: Router, answers: RouteAnswers, limit: float) -> float:
    times = []
    for query in answers.queries[:_TIMED_QUERIES]:
        start = time.perf_counter()
        router.choose([query], limit)
        times.append(1000 * (time.perf_counter() - start))
    return float(np.median(times))


def _calibration_error(router: Router, answers: RouteAnswers) -> float:
    predictions = router.gains(answers.queries).ravel()
    gains = (answers.qualities[:, :-1] - answers.qualities[:, -1:]).ravel()
    order = np.argsort(predictions, kind="stable")
    groups = np.array_split(order, min(_GROUPS, len(order)))
    return float(np.mean([abs((predictions - gains)[group].mean()) for group in groups]))


def _result(name: str, qualities: Float64[np.ndarray, " query"]) -> SystemResult:
    return SystemResult(name, (), {MAIN_METRIC: qualities}, {})


def _change(comparison: Comparison) -> str:
    test = comparison.test
    bounds = f"[{test.low:+.3f}, {test.high:+.3f}]"
    text = f"{test.difference:+.3f} {bounds}, p = {comparison.corrected_p_value:.4f}"
    return text.replace("-", "−")
