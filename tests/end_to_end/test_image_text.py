"""`nearfar fit` on captions and images, from the recipe to the saved model, and what other commands
do with it.
"""

import base64
import json
import math
import re

import pytest
from image_toys import write_image_set
from safetensors.torch import load_file
from toy_models import make_image_text_toy, make_two_tower_parts
from typer.testing import CliRunner

from trainer.cli.fit import fit
from trainer.cli.main import app
from trainer.errors import BadModel, BadRecipe
from trainer.evaluation.evaluation_file import read_evaluation
from trainer.images.decode import decode
from trainer.models.families import read_any
from trainer.models.towers.image_text import read_image_text_encoder
from trainer.recipe.load import load_recipe
from trainer.report.query_changes import query_changes

DIRECTIONS = ["ndcg@10", "mrr@10", "recall@10", "image_to_text_ndcg@10", "image_to_text_recall@10"]
RECIPE = """kind: image_text
name: pictures
model: {{backbone: {folder}/clip}}
data: {{train: {folder}/train.jsonl, test: {folder}/test.jsonl}}
output: {folder}/runs
optimization: {{batch_size: 8, max_steps: 4, learning_rate: 3e-3}}
validation: {{every_steps: 2}}
machine: {{accelerator: cpu, precision: fp32}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint, images, and a recipe that was carried out. One training image is damaged."""
    folder = tmp_path_factory.mktemp("end-to-end")
    make_image_text_toy("clip", folder / "clip")
    write_image_set(folder, range(40), "train.jsonl")
    write_image_set(folder, range(40, 60), "test.jsonl")
    (folder / "img" / "3.png").write_bytes(b"damaged")
    (folder / "recipe.yaml").write_text(RECIPE.format(folder=folder))
    fit(folder / "recipe.yaml", ["data.max_bad_rows_ratio=0.03"])
    return folder


@pytest.fixture(scope="module")
def run(folder):
    return folder / "runs" / "pictures"


def records(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_every_step_learns_and_validation_measures_both_directions(run):
    steps = [record for record in records(run) if "train/loss" in record]
    assert len(steps) == 4
    assert all(record["train/gradient_norm"] > 0 for record in steps)
    assert all(record["train/effective_negatives_per_query"] == 7 for record in steps)
    assert len({record["train/temperature"] for record in steps}) > 1, "it is learned"
    validated = [record for record in records(run) if "validation/ndcg@10" in record]
    assert validated
    assert all(f"validation/{metric}" in record for record in validated for metric in DIRECTIONS)


def test_learned_temperature_is_in_the_model(run):
    temperatures = [one["train/temperature"] for one in records(run) if "train/temperature" in one]
    scale = load_file(run / "model" / "model.safetensors")["logit_scale"].exp().item()
    # Weights are kept after the second and the fourth step; the third one logs those of before it.
    changes = [math.log(temperature * scale) for temperature in temperatures]
    assert changes[2] == pytest.approx(0, abs=1e-6) or abs(changes[3]) == pytest.approx(3e-3, 0.5)
    assert abs(changes[0]) > 1e-3, "it is not that from before training"


def test_test_queries_are_measured_without_bm25(run):
    evaluation = read_evaluation(run / "evaluation.json")
    assert "BM25" not in [system.name for system in evaluation.systems]
    assert list(evaluation.systems[0].metrics) == DIRECTIONS
    assert (len(evaluation.queries), evaluation.documents) == (20, 20)
    assert all(text.endswith(".png") for text in evaluation.texts.values())


def test_report_shows_the_pictures_of_queries_that_changed(run):
    pictures = json.loads((run / "pictures.json").read_text())
    page = (run / "report.html").read_text()
    changes = query_changes(read_evaluation(run / "evaluation.json"))
    changed = [change for change in changes if abs(change.difference) > 1e-9]
    assert changed
    assert pictures
    assert {*pictures} <= {document for change in changed for document in change.document_ids}
    for uri in pictures.values():
        assert f'src="{uri}"' in page
        image = decode(base64.b64decode(uri.partition(",")[2]))
        assert max(image.size) <= 96
    assert "img-src data:;" in page


def test_report_and_model_are_written(run):
    assert "pictures" in (run / "report.html").read_text()
    assert "captions" in (run / "model" / "README.md").read_text()
    assert read_image_text_encoder(str(run / "model")).contract.backbone == "clip"
    facts = json.loads((run / "data.json").read_text())
    assert "cannot be decoded" in json.dumps(facts) or "not an image" in json.dumps(facts)


def test_evaluate_gives_the_figures_of_fit(folder, run, tmp_path):
    ended = CliRunner().invoke(
        app,
        ["evaluate", str(run / "model"), str(folder / "clip"), "--data",
         str(folder / "test.jsonl"), "--precision", "fp32", "--out", str(tmp_path / "e.json")],
    )  # fmt: skip
    assert ended.exit_code == 0, ended.output
    base, tuned = read_evaluation(tmp_path / "e.json").systems
    systems_of_fit = read_evaluation(run / "evaluation.json").systems
    assert base.name.endswith("clip")
    for metric in DIRECTIONS:
        assert base.mean(metric) == pytest.approx(systems_of_fit[0].mean(metric), abs=1e-6)
        assert tuned.mean(metric) == pytest.approx(systems_of_fit[-1].mean(metric), abs=1e-6)


def test_recipe_puts_two_models_together(folder, tmp_path):
    make_two_tower_parts(tmp_path)
    for part, licence in (("text", "mit"), ("vit", "cc-by-nc-4.0")):
        (tmp_path / part / "README.md").write_text(f"---\nlicense: {licence}\n---\n")
    words = [
        f"model.backbone={tmp_path}/text",
        f"model.image_tower={{kind: stored, backbone: {tmp_path}/vit}}",
        f"output={tmp_path}/runs",
        "optimization.max_steps=1",
        "data.max_bad_rows_ratio=0.03",
    ]
    ended = CliRunner().invoke(app, ["check", str(folder / "recipe.yaml"), *words])
    assert ended.exit_code == 0, ended.output
    fit(folder / "recipe.yaml", words)
    model = tmp_path / "runs" / "pictures" / "model"
    contract = read_any(str(model)).contract
    assert (contract.backbone, contract.image_backbone) == ("text", "vit")
    card = (model / "README.md").read_text()
    assert "Training started from text and vit." in card
    assert "license: unknown" in card, "the licences of the two differ"


@pytest.mark.parametrize(
    "command",
    [
        ["evaluate", "MODEL", "bm25", "--data", "DATA"],
        ["evaluate", "MODEL", "--data", "DATA", "--corpus", "DATA"],
        ["encode", "MODEL"],
        ["cut", "MODEL", "--layers", "1", "-o", "OUT"],
    ],
    ids=["bm25", "corpus", "encode", "cut"],
)
def test_other_commands_say_that_they_do_not_take_images(folder, run, tmp_path, command):
    places = {"MODEL": run / "model", "DATA": folder / "test.jsonl", "OUT": tmp_path / "out"}
    arguments = [str(places.get(word, word)) for word in command]
    ended = CliRunner().invoke(app, arguments, input="a text")
    assert isinstance(ended.exception, BadModel | BadRecipe), ended.output
    assert ended.exception.exit_code == 2
    assert re.search("images|of text", str(ended.exception))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.negatives_per_query=2", "reads no hard negatives"),
        ("data.corpus=c.jsonl", "searches images"),
        ("data.general=c", "collections of texts"),
        ("model.document_prompt=x", "documents of kind image_text are images"),
        ("model.document_max_length_tokens=9", "documents of kind image_text are images"),
        ("objective.teacher_margin=0.1", "kind image_text has none"),
        ("teacher.kind=vectors", "belongs to kind"),
        ("model.projection_dimensions=8", "there is no model.image_tower"),
        ("model.image_tower={kind: new, patch_size: 7}", "64 is no multiple of patch_size=7"),
    ],
)
def test_keys_that_say_nothing_about_images_are_refused(folder, override, message):
    with pytest.raises(BadRecipe, match=message):
        load_recipe(folder / "recipe.yaml", [override])


def test_new_image_tower_cannot_be_frozen(folder):
    words = ["model.image_tower={kind: new}", "model.frozen_tower=image"]
    with pytest.raises(BadRecipe, match="keeps the random weights"):
        load_recipe(folder / "recipe.yaml", words)
