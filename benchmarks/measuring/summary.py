"""What a result file keeps of a long list of measurements: count, mean, median and quantiles."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

LONGEST = 32
"""A list of up to this many numbers, such as one value per turn, is stored as it is."""
QUANTILES = (0.05, 0.25, 0.75, 0.95, 0.99)
EXPLANATION = (
    f"A list of more than {LONGEST} numbers is stored as a map: count, mean, minimum, median,"
    " maximum, and pNN, the value at position floor(0.NN * count) of the sorted list, counted"
    " from 0. Values have 6 significant digits."
)


def summarised(value: Any) -> Any:
    """The value with each long list of numbers replaced by its statistics.

    >>> summarised({"turns": [3.0, 1.0]})
    {'turns': [3.0, 1.0]}
    >>> summarised([0.0] * 99 + [1.0])["p99"]
    1.0
    """
    match value:
        case Mapping():
            return {key: summarised(each) for key, each in value.items()}
        case list() if len(value) > LONGEST and all(map(_is_number, value)):
            return statistics_of(value)
        case list():
            return [summarised(each) for each in value]
        case _:
            return value


def statistics_of(values: Sequence[float]) -> dict[str, float]:
    """The statistics that `EXPLANATION` names.

    >>> statistics_of([1.0, 2.0, 3.0, 10.0])["median"]
    2.5
    """
    summary: dict[str, float] = {
        "mean": statistics.fmean(values),
        "minimum": min(values),
        "median": statistics.median(values),
        **{f"p{round(100 * share):02}": quantile(values, share) for share in QUANTILES},
        "maximum": max(values),
    }
    return {"count": len(values), **{name: _rounded(each) for name, each in summary.items()}}


def quantile(values: Sequence[float], share: float) -> float:
    """The value at position floor(share * count) of the sorted values.

    >>> quantile([5.0, 1.0, 3.0, 2.0], 0.5)
    3.0
    """
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
