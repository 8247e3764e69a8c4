"""The recipes that come with nearfar: found by name from any folder, from a checkout and from a
wheel.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.errors import BadRecipe
from trainer.pipeline.file import load_pipeline
from trainer.recipe.load import load_recipe
from trainer.recipe.shipped import recipe_file, shipped_recipes

REPOSITORY = Path(__file__).parents[2]


def test_recipes_are_listed_with_kind_and_purpose():
    listed = {recipe.name: recipe for recipe in shipped_recipes()}
    assert set(listed) == {path.stem for path in (REPOSITORY / "recipes").glob("*.yaml")}
    for name, recipe in listed.items():
        assert recipe.kind == load_recipe(name).kind
        assert recipe.summary.endswith((".", "?"))


@pytest.mark.parametrize("given", ["quickstart", "quickstart.yaml", "recipes/quickstart.yaml"])
def test_name_is_enough_from_any_folder(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_recipe(given, ["seed=7"]).seed == 7


def test_pipeline_s_name_is_enough_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for given in ("train-and-search", "recipes/pipelines/train-and-search.yaml"):
        assert load_pipeline(Path(given)).name == "train-and-search"


def test_file_of_one_s_own_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("recipes").mkdir()
    mine = Path("recipes/quickstart.yaml")
    mine.write_text("name: mine\nmodel: {backbone: b}\ndata: {train: t}\n")
    assert load_recipe("recipes/quickstart.yaml").name == "mine"
    assert load_recipe("quickstart").name == "quickstart"


@pytest.mark.parametrize("given", ["quikstart", "recipes/quikstart.yaml", "other/quickstart.yaml"])
def test_name_that_is_neither_names_the_nearest(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadRecipe, match=rf"no file {given}.*did you mean quickstart\?"):
        recipe_file(given)


@pytest.mark.slow
def test_installed_wheel_has_them(tmp_path):
    source, wheels, target = tmp_path / "source", tmp_path / "wheels", tmp_path / "target"
    source.mkdir()
    for name in ("trainer", "recipes"):
        shutil.copytree(
            REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    for path in REPOSITORY.iterdir():
        if path.suffix in (".py", ".toml", ".md") or path.name == "LICENSE":
            shutil.copy(path, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-index"]
    subprocess.run(
        [*pip, "wheel", *offline, "--no-build-isolation", "-w", str(wheels), str(source)],
        check=True,
    )
    (wheel,) = wheels.glob("nearfar-*.whl")
    subprocess.run([*pip, "install", *offline, "--target", str(target), str(wheel)], check=True)
    empty = tmp_path / "empty"
    empty.mkdir()

    def nearfar(*words):
        return subprocess.run(
            [sys.executable, "-P", "-m", "trainer", *words],
            cwd=empty,
            env={**os.environ, "PYTHONPATH": str(target)},
            capture_output=True,
            text=True,
            timeout=120,
        )

    listed = nearfar("recipe", "list")
    assert [line.split()[0] for line in listed.stdout.splitlines()] == [
        recipe.name for recipe in shipped_recipes()
    ], listed.stderr
    for given in ("quickstart", "recipes/quickstart.yaml"):
        assert "name: quickstart" in nearfar("recipe", "show", given).stdout
    missing = nearfar("fit", "quickstart")
    assert "data/azure-cli" in missing.stderr, "the recipe is read, only its data are missing"
    planned = nearfar("pipeline", "train-and-search", "--dry-run")
    assert "training" in planned.stdout, planned.stderr
