"""Only `trainer/collectives.py` calculates with the number of a rank, or of all ranks."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

OWN_FILE = "collectives.py"
NUMBERS = {"rank", "ranks", "get_rank", "get_world_size"}
ATTRIBUTES = {"world_size", "global_rank", "local_rank", "node_rank"}
STILL_TO_MOVE = "objectives/"
OPERATIONS = (ast.Mult, ast.Div, ast.FloorDiv, ast.Mod)


def is_number_of_ranks(node: ast.AST) -> bool:
    """Whether an expression is `rank()`, `ranks()` or what they are made of."""
    if isinstance(node, ast.Call):
        name = node.func
        return getattr(name, "id", getattr(name, "attr", "")) in NUMBERS and not node.args
    return isinstance(node, ast.Attribute) and node.attr in ATTRIBUTES


def rank_arithmetic(root: Path) -> Iterator[str]:
    """Each place outside of `collectives.py` that multiplies or divides by such a number, or counts
    in steps of it.
    """
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            operands: list[ast.AST | None] = []
            if isinstance(node, ast.BinOp) and isinstance(node.op, OPERATIONS):
                operands = [node.left, node.right]
            elif isinstance(node, ast.AugAssign) and isinstance(node.op, OPERATIONS):
                operands = [node.value]
            elif isinstance(node, ast.Slice):
                operands = [node.step]
            elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "range":
                operands = list(node.args)
            if name != OWN_FILE and any(map(is_number_of_ranks, filter(None, operands))):
                yield f"{name}:{node.lineno}"  # type: ignore[attr-defined]


def test_no_other_file_counts_with_ranks(repository: Path):
    places = rank_arithmetic(repository / "trainer")
    assert [place for place in places if not place.startswith(STILL_TO_MOVE)] == []


@pytest.mark.parametrize(
    "planted",
    [
        "first = rank() * 4",
        "share = total // collectives.ranks()",
        "share /= distributed.get_world_size()",
        "own = tasks[rank() :: ranks()]",
        "own = range(0, 9, ranks())",
        "first = trainer.global_rank * 4",
    ],
)
def test_planted_arithmetic_is_found(tmp_path: Path, planted: str):
    (tmp_path / "loss.py").write_text(planted + "\n", encoding="utf-8")
    (tmp_path / OWN_FILE).write_text(planted + "\n", encoding="utf-8")
    assert list(rank_arithmetic(tmp_path)) == ["loss.py:1"]


def test_plan_of_ranks_is_no_rank(tmp_path: Path):
    (tmp_path / "plan.py").write_text("share = batch // plan.ranks\n", encoding="utf-8")
    assert list(rank_arithmetic(tmp_path)) == []
