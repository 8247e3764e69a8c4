"""The model before training competes: training that makes it worse at every validation does not
end in a worse `model/`, and the first line of the result says so.
"""

import json

import forked
import pytest
import torch

from trainer.build.families.registry import build_model
from trainer.cli.fit import fit
from trainer.data.retrieval_set import read_retrieval_set
from trainer.errors import BadModel
from trainer.evaluation.evaluate import evaluate
from trainer.models.families import read_any
from trainer.recipe.load import load_recipe

WORDS = ("disk", "storage", "account", "query", "database", "machine", "region", "western")
TEXTS = [f"{first} {second}" for first in WORDS for second in WORDS]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def harmful(tmp_path, toy_folder):
    """Overrides of a run that can only do harm: the base model answers every held-out query, since
    it is its document, and is trained on wrong pairs at a rate that destroys it.
    """
    right = [{"query": text, "positive": text} for text in TEXTS[:16]]
    wrong = [
        {"query": f"the {text}", "positive": f"a {TEXTS[-1 - number]}"}
        for number, text in enumerate(TEXTS[:32])
    ]
    train = write(tmp_path / "train.jsonl", wrong)
    held_out = write(tmp_path / "held-out.jsonl", right)
    return [
        f"model.backbone={toy_folder('bert')}",
        f"data.train={train}",
        f"data.validation={held_out}",
        f"data.test={held_out}",
        f"output={tmp_path}",
        "name=harmful",
        "optimization.batch_size=8",
        "optimization.epochs=2",
        "optimization.warmup_steps=0",
        "optimization.learning_rate=0.5",
        "machine.accelerator=cpu",
        "machine.precision=fp32",
    ]


KINDS = {
    "full": ["bi-encoder-full"],
    "lora and projection": ["bi-encoder-lora", "model.projection_dimensions=16"],
    "pca": ["bi-encoder-lora", "model.projection_dimensions=8", "model.projection_start=pca"],
    "late interaction": ["colbert", "model.projection_dimensions=16"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_model_folder_has_the_base_model_when_it_wins(harmful, kind, tmp_path, capsys, repository):
    name, *more = KINDS[kind]
    recipe = repository / f"recipes/{name}.yaml"
    fit(recipe, [*harmful, *more])
    selection = json.loads((tmp_path / "harmful/status.json").read_text())["selection"]
    assert selection["best_score"] < selection["base_score"]
    first_line = capsys.readouterr().out.splitlines()[0]
    assert first_line.startswith("Training did not help: the best validation nDCG@10 was 0.")
    saved = read_any(str(tmp_path / "harmful/model"))
    held_out = read_retrieval_set(str(tmp_path / "held-out.jsonl"), "dev")
    assert evaluate(saved, held_out).mean() == pytest.approx(selection["base_score"])
    evaluation = json.loads((tmp_path / "harmful/evaluation.json").read_text())
    assert evaluation["selection"] == selection
    assert [system["name"] for system in evaluation["systems"]] == ["BM25", "base"], (
        "model/ is the base model, which was measured"
    )
    if kind == "pca":
        return  # its start is computed from the training texts
    start = build_model(load_recipe(recipe, [*harmful, *more])).eval()
    texts = start.tokenize(TEXTS[:4], "document")
    with torch.no_grad():
        assert (start(texts) - saved(texts)).abs().max() < 1e-5


def test_base_model_that_wins_is_named_without_test_queries(harmful, tmp_path, capsys, repository):
    overrides = [each for each in harmful if not each.startswith("data.test")]
    fit(repository / "recipes/bi-encoder-lora.yaml", overrides)
    assert capsys.readouterr().out.startswith("Training did not help")
    assert not (tmp_path / "harmful/evaluation.json").exists()
    assert json.loads((tmp_path / "harmful/status.json").read_text())["status"] == "done"


def test_adapter_that_learned_nothing_is_still_an_error(harmful, repository):
    """It ends level with the base model, which must not hide that LoRA did nothing."""
    with pytest.raises(BadModel, match="LoRA changed nothing"):
        fit(
            repository / "recipes/bi-encoder-lora.yaml",
            [*harmful, "optimization.learning_rate=1e-45"],
        )


def test_fresh_head_of_a_cross_encoder_does_not_compete(harmful, tmp_path, capsys, repository):
    fit(
        repository / "recipes/cross-encoder.yaml",
        [*harmful, "objective.random_negatives=3", "model.document_max_length_tokens=64"],
    )
    selection = json.loads((tmp_path / "harmful/status.json").read_text())["selection"]
    assert selection["base_score"] is None
    assert "Training did not help" not in capsys.readouterr().out
    evaluation = json.loads((tmp_path / "harmful/evaluation.json").read_text())
    assert [system["name"] for system in evaluation["systems"]] == ["BM25", "fine-tuned"]


def test_trained_cross_encoder_competes(harmful, tmp_path, capsys, repository):
    """The model of the first run is the base of the second."""
    recipe = repository / "recipes/cross-encoder.yaml"
    lengths = ["objective.random_negatives=3", "model.document_max_length_tokens=64"]
    fit(recipe, [*harmful, *lengths, "name=first", "optimization.learning_rate=1e-3"])
    first = tmp_path / "first/model"
    capsys.readouterr()
    fit(recipe, [*harmful, *lengths, f"model.backbone={first}"])
    selection = json.loads((tmp_path / "harmful/status.json").read_text())["selection"]
    assert selection["base_score"] is not None
    base_won = selection["best_score"] <= selection["base_score"]
    assert capsys.readouterr().out.startswith("Training did not help") == base_won


@pytest.mark.slow
@pytest.mark.parametrize("machine", ["cpu-2-fsdp2", "cpu-2-zero3"])
def test_base_model_wins_under_sharding(harmful, machine, tmp_path, repository):
    recipe = "recipes/bi-encoder-full.yaml"
    ended = forked.nearfar(
        *("launch", recipe, *harmful, "--machine", f"launch/accelerate/{machine}.yaml"),
        folder=repository,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert f"\n{ended.stdout}".count("\nTraining did not help") == 1, "one rank speaks"
    saved = read_any(str(tmp_path / "harmful/model"))
    selection = json.loads((tmp_path / "harmful/status.json").read_text())["selection"]
    held_out = read_retrieval_set(str(tmp_path / "held-out.jsonl"), "dev")
    assert evaluate(saved, held_out).mean() == pytest.approx(selection["base_score"])
