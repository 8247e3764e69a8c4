"""What the recipe's section says of an objective is what the objective does."""

import math
from typing import get_args

import pytest
from pydantic import ValidationError
from twins import SmallEncoder, batch_of, full_batch, graded_batch, value_and_gradient

from trainer.build.objective import build_objective
from trainer.recipe.schema.families import BiEncoderRecipe
from trainer.recipe.schema.objective import BiEncoderObjective, ColBERTObjective

LEAST = {"name": "toy", "model": {"backbone": "b"}}
SECTIONS = {
    section.model_fields["kind"].default: section
    for union in (BiEncoderObjective, ColBERTObjective)
    for section in get_args(get_args(union)[0])
}


def learns(objective, batch):
    """Whether the loss is a number with a gradient."""
    encoder = SmallEncoder()
    loss, gradient = value_and_gradient(objective(batch, encoder, 0.2), list(encoder.parameters()))
    return math.isfinite(loss) and math.isfinite(gradient.norm()) and bool(gradient.norm() > 1e-6)


def refused(kind, **data):
    try:
        BiEncoderRecipe(**LEAST, data={"train": "t", **data}, objective={"kind": kind})
    except ValidationError:
        return True
    return False


@pytest.mark.parametrize("kind", SECTIONS)
class TestSectionSaysWhatTheObjectiveDoes:
    def test_recipe_without_negatives_is_refused_where_it_could_not_learn(self, kind):
        objective, _ = build_objective(SECTIONS[kind]())
        assert refused(kind) == (not learns(objective, graded_batch()))

    def test_compares_own_candidates(self, kind):
        section = SECTIONS[kind]()
        objective, _ = build_objective(section)
        assert section.compares_own_candidates == (not learns(objective, graded_batch()))
        assert not section.compares_own_candidates or not refused(kind, negatives_per_query=2)

    def test_reads_scores(self, kind):
        section = SECTIONS[kind]()
        objective, _ = build_objective(section)
        if section.reads_scores:
            with pytest.raises(ValueError, match="no labels"):
                objective(full_batch(), SmallEncoder(), 0.2)
        else:
            assert learns(objective, full_batch())


def test_kinds_of_both_answers_are_tested():
    sections = [section() for section in SECTIONS.values()]
    assert {each.compares_own_candidates for each in sections} == {True, False}
    assert {each.reads_scores for each in sections} == {True, False}
    objective, _ = build_objective(SECTIONS["triplet"](margin=9.0))
    assert learns(objective, batch_of([("disk", "removedisk", "createdisk")]))
