"""Ranks whose input differs are refused."""

from ranks import on_ranks

from trainer.collectives import rank
from trainer.errors import BadMachine
from trainer.strategies.machine.same_input import check_same


def recipes(*texts):
    try:
        check_same(texts[rank()], "recipe")
    except BadMachine as error:
        return str(error)
    return "the same"


def test_ranks_with_different_recipes_are_refused_on_all():
    assert on_ranks(2, recipes, "seed: 1", "seed: 1") == ["the same"] * 2
    for message in on_ranks(2, recipes, "seed: 1", "seed: 2"):
        assert "different versions of the recipe" in message
