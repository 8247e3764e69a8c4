"""The README of a trained model: metadata that model hubs read, results, data and licence."""

import json
import re
import shutil

import pytest
import yaml
from huggingface_hub import ModelCard

from trainer.evaluation.evaluation_file import read_evaluation
from trainer.models.files.licence import licence_of
from trainer.models.formats.folder import check_model_folder
from trainer.report.model_card import complete_model_card, plain
from trainer.report.read import read_run


@pytest.fixture
def run(toy_run, tmp_path):
    """A copy of the run, whose README is as it was saved, without results."""
    folder = shutil.copytree(toy_run, tmp_path / "a-run")
    readme = folder / "model" / "README.md"
    text = readme.read_text().split("\n## Results")[0]
    readme.write_text(re.sub(r"\nlicense.*?\n---\n", "\n---\n", text, flags=re.DOTALL))
    return folder


def test_metadata_are_valid_for_a_hub(toy_run):
    card = ModelCard.load(toy_run / "model" / "README.md")
    measured = read_evaluation(toy_run / "evaluation.json").systems[-1]
    assert card.data.license == "unknown"
    assert card.data.library_name == "sentence-transformers"
    (ndcg, *_) = results = card.data.eval_results
    assert [result.metric_type for result in results] == [
        "ndcg_at_10",
        "mrr_at_10",
        "recall_at_100",
    ]
    assert ndcg.metric_value == pytest.approx(measured.mean(), abs=1e-4)
    assert (ndcg.task_type, ndcg.dataset_split) == ("information-retrieval", "test")
    assert card.data.base_model is None, "a folder of this machine is no name on a hub"


def test_results_data_and_settings_are_in_the_text(toy_run):
    text = (toy_run / "model" / "README.md").read_text()
    system = read_evaluation(toy_run / "evaluation.json").systems[-1]
    values = system.interval()
    assert f"| {plain(system.name)} | {values.mean:.3f} [{values.low:.3f}," in text
    assert "| BM25 | " in text
    assert "10 test queries" in text
    assert "49 training pairs of 48 queries and 48 documents." in text
    assert "1 in test: the same query in training." in text
    blocks = re.findall(r"^```json\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    contract, fingerprint, settings = map(json.loads, blocks)
    assert contract["pooling"] == "mean"
    assert len(fingerprint["train"]["sha256"]) == 64
    assert settings["optimization.learning_rate"] == 0.01
    assert settings["data.train"] == fingerprint["train"]["source"] == "train.jsonl"
    assert str(toy_run.parent) not in text, "a path of this machine is nobody else's business"
    check_model_folder(toy_run / "model", replace=True)


def test_licence_and_base_model_are_named(run):
    recipe = run / "recipe.yaml"
    recipe.write_text(re.sub(r"backbone: .*", "backbone: owner/model", recipe.read_text()))
    path = complete_model_card(read_run(run), "apache-2.0")
    card = ModelCard.load(path)
    assert (card.data.license, card.data.base_model) == ("apache-2.0", "owner/model")
    assert "Its licence: apache-2.0." in card.text
    assert "Look it up" not in card.text


def test_run_without_test_queries_has_no_figures(run):
    (run / "evaluation.json").unlink()
    card = ModelCard.load(complete_model_card(read_run(run), None))
    assert card.data.eval_results is None
    assert "nothing was measured on test queries" in card.text
    assert "Look it up before you share this model." in card.text


@pytest.mark.parametrize("attack", ["<script>x</script>", "```\n---\n# x", "a | b", "[x](y:z)"])
def test_text_of_the_data_stays_text(run, attack):
    content = json.loads((run / "evaluation.json").read_text())
    content["systems"][0]["name"] = content["set"] = content["split"] = attack
    (run / "evaluation.json").write_text(json.dumps(content))
    path = complete_model_card(read_run(run), attack)
    head = yaml.safe_load(path.read_text().split("\n---\n")[0])
    assert head["license"] == " ".join(attack.split())
    body = path.read_text().split("\n## Results")[1]
    assert attack not in body
    assert body.count("```") == 4


def test_licence_is_read_from_the_metadata_of_a_readme(tmp_path):
    readme = tmp_path / "README.md"
    assert licence_of(str(tmp_path)) is None
    for text, licence in (
        ("---\nlicense: mit\n---\n# A model\n", "mit"),
        ("---\ntags: [a]\n---\n", None),
        ("---\nlicense: [a]\n---\n", None),
        ("---\n: : :\n---\n", None),
        ("license: mit\n", None),
    ):
        readme.write_text(text)
        assert licence_of(str(tmp_path)) == licence
