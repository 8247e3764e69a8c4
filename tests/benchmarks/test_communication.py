"""The benchmark of communication at a small size: it counts what the formulas say, and both ways
give the gradient of one process.
"""

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from ranks import on_ranks

DENSE, TOKENS = (16,), (3, 16)


@pytest.fixture
def communication(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("communication")


@pytest.mark.parametrize(
    ("query", "document", "temperature"),
    [(DENSE, DENSE, 0.05), (TOKENS, (5, 16), 1.0)],
    ids=["dense", "late interaction"],
)
def test_bytes_equal_the_formula(
    communication: ModuleType, query: tuple[int, ...], document: tuple[int, ...], temperature: float
) -> None:
    case = communication.Case(32, 7, query, document, temperature)
    (wanted,) = on_ranks(1, communication.reference, case)
    found = {
        way: communication.measured(case, way, 2, 1, wanted) for way in communication.WAYS
    }  # raises where a gradient is another one
    for way, one in found.items():
        assert one["embeddings"] == case.expected(way, 2) > 0
    assert found["documents"]["rest"] == 0 < found["queries"]["rest"]


def test_wrong_gradient_is_caught(communication: ModuleType) -> None:
    case = communication.Case(8, 1, DENSE, DENSE, 0.05)
    loss, gradient = on_ranks(1, communication.reference, case)[0]
    assert all(part.norm() > 0 for part in gradient)
    with pytest.raises(AssertionError, match="the gradient is"):
        communication.measured(case, "queries", 2, 1, (loss, [1.001 * gradient[0], gradient[1]]))
    with pytest.raises(AssertionError, match="the loss is"):
        communication.measured(
            case, "queries", 2, 1, (loss + 0.01, [torch.zeros_like(part) for part in gradient])
        )
