"""What a router knows besides its weights: its routes, and what limits of the cost lead to."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from pydantic import BaseModel, ConfigDict, Field

from trainer.errors import BadRecipe


class CurvePoint(BaseModel):
    """What a price leads to on the queries that the router learned from, each of which was
    predicted without itself.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    price: float = Field(ge=0)
    """nDCG@10 that asking all routes must gain to be worth it."""
    cost: float = Field(ge=0)
    """The mean cost of a query, as a share of that of asking all routes."""
    quality: float
    """The mean nDCG@10."""


@dataclass(frozen=True)
class RoutingRule:
    """How a router chooses within a limit: the same route for every query, or by a price."""

    quality: float
    """Mean nDCG@10 on the queries that the router learned from, and the mean cost."""
    cost: float
    route: int | None = None
    """The number of the route, or None."""
    price: float = 0.0


class RouterSettings(BaseModel):
    """What a router knows besides its weights."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    routes: list[str] = Field(min_length=2)
    """Names of systems, as `nearfar evaluate` reads them."""
    milliseconds: list[float]
    """The median time of one query, per route."""
    queries: int = Field(ge=1)
    """The number of queries that it learned from."""
    learned_from: str
    """The name of their set."""
    qualities: list[float]
    """Mean nDCG@10 of each route on them, and of asking all routes."""
    curve: list[CurvePoint] = Field(min_length=1)
    image_routes: list[str] = Field(default_factory=list)
    """The routes that hold images. All of them are asked for a query that is an image: it has no
    words from which a router could predict anything.
    """

    @property
    def costs(self) -> Float64[np.ndarray, " route"]:
        """The cost of each route as a share of that of asking all of them."""
        return np.array(self.milliseconds) / max(sum(self.milliseconds), 1e-9)

    @property
    def rules(self) -> list[RoutingRule]:
        """The points of the curve, and each route alone."""
        return [
            *(RoutingRule(point.quality, point.cost, price=point.price) for point in self.curve),
            *(
                RoutingRule(self.qualities[route], cost, route)
                for route, cost in enumerate(self.costs.tolist())
            ),
        ]

    @property
    def checked_image_routes(self) -> tuple[str, ...]:
        """The routes of every query that is an image. Raises BadRecipe if there are none."""
        if not self.image_routes:
            raise BadRecipe(
                f"none of the router's routes holds images: {', '.join(self.routes)}; write the"
                " query in words, or fit a router with a view of images"
            )
        return tuple(self.image_routes)

    def best_rule(self, limit: float) -> RoutingRule:
        """Returns the rule with the best quality of those whose mean cost is at most `limit`.

        Raises BadRecipe if that is no share, or if even the cheapest route costs more.
        """
        if not 0 <= limit <= 1:
            raise BadRecipe(
                f"a cost of {limit:g} is no share of the cost of all routes; give one from 0 to 1"
            )
        possible_rules = [rule for rule in self.rules if rule.cost <= limit + 1e-9]
        if not possible_rules:
            cheapest = min(rule.cost for rule in self.rules)
            raise BadRecipe(
                f"a cost of {limit:g} is too little: the cheapest of these routes costs"
                f" {math.ceil(cheapest * 1e4) / 1e4:g} of asking all of them; give a limit of at"
                " least that"
            )
        return max(possible_rules, key=lambda rule: (rule.quality, -rule.cost))
