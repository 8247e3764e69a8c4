"""A run may save a smaller change than training made, if the validation queries lose little."""

import json

import forked
import numpy as np
import pytest
import torch

from trainer.build.saving import choose_share
from trainer.cli.fit import fit
from trainer.data.retrieval_set import read_retrieval_set
from trainer.errors import BadFolder, BadModel
from trainer.evaluation.evaluate import evaluate
from trainer.models.blend import write_blend
from trainer.models.families import read_any

WORDS = ("disk", "storage", "account", "query", "database", "machine", "region", "western")
TEXTS = [f"{first} {second}" for first in WORDS for second in WORDS]


@pytest.mark.parametrize(
    ("scores", "choice"),
    [
        ({0.5: 0.75, 0.3: 0.70}, (0.5, 0.75)),
        ({0.5: 0.90, 0.3: 0.70}, (0.5, 0.90)),
        ({0.5: 0.80, 0.3: 0.81}, (0.3, 0.81)),
        ({0.5: 0.70, 1.0: 0.80, 0.7: 0.80}, (0.7, 0.80)),
        ({0.5: 0.70, 1.0: 0.80, 0.7: 0.75}, (0.7, 0.75)),
        ({0.5: 0.70, 1.0: 0.80, 0.7: 0.73}, (1.0, 0.80)),
        ({0.5: 0.49, 1.0: 0.80, 0.7: 0.48}, (1.0, 0.80)),
    ],
)
def test_another_share_than_half_is_saved_where_it_is_proven_better(scores, choice):
    """The score rises from 0.5 before training to 0.8. Every query has the same value, so each
    difference is proven. Shares without a score are not measured.
    """
    measured = []

    def values_of(share):
        measured.append(share)
        return np.full(200, scores[share])

    assert choose_share(values_of, 0.5, 0.8) == pytest.approx(choice)
    assert measured == list(scores)


@pytest.mark.parametrize("other", [0.3, 1.0])
def test_half_is_saved_where_another_share_may_be_better_by_chance(other):
    """The mean of the other share is higher by 0.05, but half of the queries are worse."""
    values = np.full(200, 0.6)
    chance = values + np.where(np.arange(200) % 2, 0.55, -0.45)
    tuned_score = 0.65 if other == 1.0 else 0.6
    share, _ = choose_share({0.5: values, other: chance}.__getitem__, 0.5, tuned_score)
    assert share == 0.5


def test_seven_tenths_are_saved_where_half_gains_nothing_and_all_may_be_better_by_chance():
    chance = 0.6 + np.where(np.arange(200) % 2, 0.55, -0.55)
    values = {0.5: np.full(200, 0.49), 0.7: np.full(200, 0.55), 1.0: chance}
    assert choose_share(values.__getitem__, 0.5, 0.6) == pytest.approx((0.7, 0.55))


@pytest.mark.parametrize(("queries", "choice"), [(4, 0.5), (8, 0.3)])
def test_gain_in_four_queries_proves_nothing(queries, choice):
    """All of them are better, but four equal signs come by chance in one of eight cases."""
    values = {0.5: np.full(queries, 0.6), 0.3: np.full(queries, 0.61)}
    share, _ = choose_share(values.__getitem__, 0.5, 0.6)
    assert share == choice


def write(path, pairs):
    lines = (json.dumps({"query": query, "positive": text}) for query, text in pairs)
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def words(tmp_path, toy_folder):
    """Overrides of a run that learns, with validation and test queries."""
    train = write(tmp_path / "train.jsonl", [(f"the {text}", f"a {text}") for text in TEXTS[:48]])
    held_out = write(tmp_path / "held.jsonl", [(f"one {text}", f"a {text}") for text in TEXTS[32:]])
    return [
        f"model.backbone={toy_folder('bert')}",
        f"data.train={train}",
        f"data.validation={held_out}",
        f"data.test={held_out}",
        f"output={tmp_path}",
        "optimization.batch_size=8",
        "optimization.epochs=3",
        "optimization.warmup_steps=0",
        "optimization.learning_rate=0.01",
        "machine.accelerator=cpu",
        "machine.precision=fp32",
    ]


def weights_of(folder):
    return dict(read_any(str(folder)).named_parameters())


def largest_difference(one, other):
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).detach().abs().max()) for name in one)


KINDS = {
    "full": ["bi-encoder-full"],
    "lora": ["bi-encoder-lora"],
    "lora and a new projection": ["bi-encoder-lora", "model.projection_dimensions=16"],
    "late interaction": ["colbert", "model.projection_dimensions=16"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_saved_model_is_between_base_and_tuned_model(
    kind, words, tmp_path, toy_folder, repository, capsys
):
    recipe, *more = KINDS[kind]
    recipe = repository / f"recipes/{recipe}.yaml"
    fit(recipe, [*words, *more, "name=part", "validation.interpolate=true"])
    printed = capsys.readouterr()
    selection = json.loads((tmp_path / "part/status.json").read_text())["selection"]
    share, score = selection["share"], selection["share_score"]
    assert share in (0.3, 0.5, 0.7)
    assert not (tmp_path / "part/checkpoints/candidate").exists()
    saved = read_any(str(tmp_path / "part/model"))
    held_out = read_retrieval_set(str(tmp_path / "held.jsonl"), "dev")
    assert evaluate(saved, held_out).mean() == pytest.approx(score)
    assert score > selection["base_score"]
    assert f"model/ holds {100 * share:.0f} % of the change" in printed.out
    if more:
        return  # the start of a new projection is not in the files of the base model
    fit(recipe, [*words, "name=whole", "validation.interpolate=false"])
    write_blend(str(toy_folder("bert")), str(tmp_path / "whole/model"), share, tmp_path / "blend")
    assert largest_difference(dict(saved.named_parameters()), weights_of(tmp_path / "blend")) < 1e-6


@pytest.mark.slow
def test_ranks_that_share_out_the_model_choose_the_same(words, tmp_path, repository):
    fit(
        repository / "recipes/bi-encoder-full.yaml",
        [*words, "name=one", "validation.interpolate=true"],
    )
    launched = forked.nearfar(
        *("launch", "recipes/bi-encoder-full.yaml", *words, "name=two"),
        *("validation.interpolate=true", "--machine", "launch/accelerate/cpu-2-fsdp2.yaml"),
        folder=repository,
    )
    assert launched.returncode == 0, launched.stderr[-3000:]
    one, two = (
        json.loads((tmp_path / name / "status.json").read_text())["selection"]
        for name in ("one", "two")
    )
    assert one == pytest.approx(two)
    held_out = read_retrieval_set(str(tmp_path / "held.jsonl"), "dev")
    saved = read_any(str(tmp_path / "two/model"))
    assert evaluate(saved, held_out).mean() == pytest.approx(two["share_score"])


class TestBlend:
    def test_ends_are_the_two_models(self, toy_folder, tmp_path, words, repository):
        fit(repository / "recipes/bi-encoder-lora.yaml", [*words, "name=tuned"])
        base, tuned = str(toy_folder("bert")), str(tmp_path / "tuned/model")
        for share, model in ((0.0, base), (1.0, tuned)):
            write_blend(base, tuned, share, tmp_path / "out", replace=True)
            assert not largest_difference(weights_of(tmp_path / "out"), weights_of(model))
        half = write_blend(base, tuned, 0.5, tmp_path / "half")
        assert "0.5 of the way" in str(half)
        first, middle, last = map(weights_of, (base, tmp_path / "half", tuned))
        for name, weight in middle.items():
            assert torch.allclose(2 * weight, first[name] + last[name], atol=1e-6)
        with pytest.raises(BadFolder, match="would replace it"):
            write_blend(base, tuned, 0.5, tmp_path / "tuned/model", replace=True)

    def test_models_of_different_shapes_are_refused(self, toy_folder, tmp_path):
        with pytest.raises(BadModel, match="have different weights"):
            write_blend(str(toy_folder("bert")), str(toy_folder("roberta")), 0.5, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_model_and_itself_are_refused(self, toy_folder, tmp_path):
        with pytest.raises(BadModel, match="have equal weights"):
            write_blend(str(toy_folder("bert")), str(toy_folder("bert")), 0.5, tmp_path / "out")
        assert not (tmp_path / "out").exists()
