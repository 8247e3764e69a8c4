"""Sparse models whose queries are encoded by a table, from recipe to training: initial weights,
what is regularised, the learning rate of the table.
"""

import math

import pytest
import torch
from toy_models import masked_lm

from trainer.build.families.registry import family_of
from trainer.build.families.sparse import QUERY_WEIGHT
from trainer.data.rows import Row, Rows
from trainer.errors import BadRecipe
from trainer.models.formats.folder import save_encoder
from trainer.modules.optimizer import OptimizerSettings, adamw
from trainer.recipe.schema.data import DataSection
from trainer.recipe.schema.families import SparseRecipe
from trainer.recipe.schema.model import LoraTuning, SparseModel
from trainer.recipe.schema.sparse import QueryTableSection, RegularizerSection

ROWS = Rows.of(
    [
        Row("delete a disk", "how to delete one disk"),
        Row("remove a disk", "how to delete one disk"),
        Row("list disks", "how to list every disk"),
        Row("create an account", "create one account"),
    ]
)


@pytest.fixture(scope="module")
def backbone(toy_folder):
    return masked_lm(toy_folder("bert"))


def run_of(backbone, query_table=None, **sections):
    model = SparseModel(backbone=str(backbone), tuning=LoraTuning(rank=2), query_table=query_table)
    return SparseRecipe(name="a", model=model, data=DataSection(train="t"), **sections)


def started(run):
    """The encoder of a run as it is before the first step."""
    encoder = family_of(run).build_model(run)
    family_of(run).start(run, encoder, ROWS)
    return encoder


@pytest.fixture(scope="module")
def encoder(backbone):
    return started(run_of(backbone, QueryTableSection()))


def word(encoder, text):
    return encoder.tokenizer.convert_tokens_to_ids(text)


def test_table_starts_with_the_rarity_of_words_in_distinct_documents(encoder):
    weights, rarest = encoder.query_table.weight, math.log1p(3.5 / 0.5)
    assert weights[word(encoder, "disk")].item() == pytest.approx(math.log1p(1.5 / 2.5) / rarest)
    assert weights[word(encoder, "account")].item() == pytest.approx(math.log1p(2.5 / 1.5) / rarest)
    assert (weights == 1).sum() > 9, "words of no document"
    assert torch.equal((weights == 0).nonzero()[:, 0], torch.tensor(special_ids(encoder)))


def special_ids(encoder):
    return sorted(encoder.tokenizer.all_special_ids)


def test_table_may_start_with_ones(backbone):
    encoder = started(run_of(backbone, QueryTableSection(start="ones")))
    weights = encoder.query_table.weight
    assert set(weights.tolist()) == {0.0, 1.0}
    assert (weights == 0).sum() == len(special_ids(encoder))


def test_table_of_the_folder_is_kept(encoder, tmp_path):
    expected = encoder.query_table.weight.detach() / 2
    encoder.query_table.weight.data /= 2
    save_encoder(encoder, tmp_path / "model")
    encoder.query_table.weight.data *= 2
    for section in (QueryTableSection(), None):
        again = started(run_of(tmp_path / "model", section))
        assert torch.equal(again.query_table.weight, expected)


def test_queries_of_a_table_are_not_regularised(backbone, encoder):
    runs = run_of(backbone, QueryTableSection()), run_of(backbone)
    for run, model, weight in zip(
        runs, (encoder, started(runs[1])), (0.0, QUERY_WEIGHT), strict=True
    ):
        assert family_of(run).learning(run, model, [], 10).objective.query_weight == weight
    section = RegularizerSection(query_weight=0.01)
    run = run_of(backbone, QueryTableSection(), regularizer=section)
    with pytest.raises(BadRecipe, match=r"query_weight=0\.01, but a table encodes the queries"):
        family_of(run).check(run, encoder)


def test_table_learns_with_the_rate_of_the_head_beside_an_adapter(backbone, encoder):
    run = run_of(backbone, QueryTableSection())
    learning = family_of(run).learning(run, encoder, [], 10)
    settings = OptimizerSettings(1e-4, 1e-2, 1e-4, 0.1, "constant", 0, 10)
    optimizer = adamw(encoder, learning.temperature, settings, learning.head, learning.is_head)[
        "optimizer"
    ]
    (group,) = (group for group in optimizer.param_groups if group["lr"] == 1e-2)
    assert group["params"] == [encoder.query_table.weight]
    assert group["weight_decay"] == 0
    others = [weight for group in optimizer.param_groups for weight in group["params"]]
    assert len(others) > 4, "and the adapters learn with the other rate"


def test_frozen_table_is_not_trained(backbone):
    encoder = started(run_of(backbone, QueryTableSection(learn_weights=False)))
    assert not encoder.query_table.weight.requires_grad
    assert encoder.query_table.weight.unique().numel() > 3, (
        "it has the rarity of words all the same"
    )
