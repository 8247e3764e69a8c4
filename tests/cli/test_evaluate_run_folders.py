"""`nearfar evaluate` and `blend` with the folder of a run in place of a model."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from verbs import command_caller

from trainer.cli.cut import blend
from trainer.cli.evaluate import evaluate
from trainer.errors import BadModel, BadRecipe
from trainer.evaluation.evaluation_file import read_evaluation
from trainer.recipe.load import dump_recipe, recipe_from_values

call = command_caller(evaluate)


@pytest.fixture
def judged_file(tmp_path: Path) -> Path:
    path = tmp_path / "judged.jsonl"
    rows = [{"a": f"how to {verb}", "b": f"{verb} it"} for verb in ("list", "delete", "show")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def make_run(tmp_path: Path, toy_folder):  # type: ignore[no-untyped-def]
    """Makes the folder of a finished run with a toy model, whose recipe has this section `data`."""

    def make_run(**data: object) -> Path:
        folder = tmp_path / "runs" / "toy"
        shutil.copytree(toy_folder("bert"), folder / "model")
        values = {"name": "toy", "model": {"backbone": "some/model"}}
        recipe = recipe_from_values({**values, "data": {"train": "pairs.jsonl", **data}})
        (folder / "recipe.yaml").write_text(dump_recipe(recipe))
        (folder / "environment.json").write_text("{}")
        return folder

    return make_run


def test_run_folder_is_measured_on_its_own_test_set(make_run, judged_file, tmp_path) -> None:
    run = make_run(test=str(judged_file), columns={"query": "a", "positive": "b"})
    ended = call(run, "--no-bm25", "--out", tmp_path / "out.json")
    assert f"no --data: measuring on {judged_file}, the test set of {run}" in ended.stderr
    assert f"measuring {run}/model" in ended.stderr
    (system,) = read_evaluation(tmp_path / "out.json").systems
    assert (system.name, len(system.query_ids)) == (f"{run}/model", 3)


def test_run_folder_is_blended_as_its_model(make_run, toy_folder, tmp_path) -> None:
    run = make_run()
    path = run / "model/model.safetensors"
    weights = {name: 2 * weight for name, weight in load_file(path).items()}
    save_file(weights, path, {"format": "pt"})
    ended = command_caller(blend)(toy_folder("bert"), run, "-o", tmp_path / "half")
    assert "0.7 of the way" in ended.stdout
    assert (tmp_path / "half/config.json").is_file()


def test_test_split_of_the_training_folder_is_the_test_set(make_run, judged_file, tmp_path) -> None:
    rows = [json.loads(line) for line in judged_file.read_text().splitlines()]
    (tmp_path / "set/qrels").mkdir(parents=True)
    for name, column in (("queries", "a"), ("corpus", "b")):
        lines = [{"_id": str(number), "text": row[column]} for number, row in enumerate(rows)]
        (tmp_path / f"set/{name}.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    qrels = "".join(f"{number}\t{number}\t1\n" for number in range(3))
    (tmp_path / "set/qrels/test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{qrels}")
    run = make_run(
        train=str(tmp_path / "set"), validation=str(judged_file), corpus=str(judged_file)
    )
    assert f"measuring on {tmp_path / 'set'}, " in call(run, "--no-bm25").stderr


def test_given_data_count_more_than_the_recipe(make_run, judged_file) -> None:
    run = make_run(test="nowhere.jsonl")
    options = ("--data", judged_file, "--column", "query=a", "--column", "positive=b", "--no-bm25")
    assert "no --data" not in call(run, *options).stderr


def test_run_without_a_test_set_needs_data(make_run, toy_folder) -> None:
    for model in (make_run(), toy_folder("bert")):
        with pytest.raises(BadRecipe, match="name them with --data"):
            evaluate([str(model)])


def test_run_without_a_model_is_named(make_run, judged_file) -> None:
    run = make_run(test=str(judged_file))
    shutil.rmtree(run / "model")
    with pytest.raises(BadModel, match="which has saved no model"):
        evaluate([str(run)])
