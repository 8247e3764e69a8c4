"""What a run is made of: what a continued run must notice, and what it must not mind."""

import json
from pathlib import Path

from trainer.build.identity import identity_changes, run_identity
from trainer.recipe.load import load_recipe

RECIPE = Path("recipes/bi-encoder-lora.yaml")


def identity(repository: Path, *words: str) -> dict[str, str]:
    return run_identity(load_recipe(repository / RECIPE, list(words)), 10)


def test_hub_data_set_is_known_by_its_name(repository):
    one, two = (identity(repository, f"data.train=org/{name}") for name in ("one", "two"))
    assert identity_changes(one, two) == ['data.train: "org/one" before, now "org/two"']


def test_file_is_known_by_its_content(repository, tmp_path):
    paths = [tmp_path / name for name in ("one.jsonl", "two.jsonl")]
    for path in paths:
        path.write_text(json.dumps({"query": "a", "positive": "b"}) + "\n")
    one, two = (identity(repository, f"data.train={path}") for path in paths)
    assert "data.train.sha256" in one
    assert [line for line in identity_changes(one, two) if "train" in line] == []
    paths[1].write_text(json.dumps({"query": "a", "positive": "c"}) + "\n")
    changed = identity(repository, f"data.train={paths[1]}")
    assert [line.split(":")[0] for line in identity_changes(one, changed)] == ["data.train.sha256"]


def test_image_tower_is_known_by_its_content(repository, tmp_path):
    def identity_with_tower(folder, width):
        path = tmp_path / folder
        path.mkdir()
        (path / "config.json").write_text(f'{{"hidden_size": {width}}}')
        words = [f"model.image_tower={{kind: stored, backbone: {path}}}"]
        return run_identity(load_recipe(repository / "recipes/image-text.yaml", words), 10)

    one = identity_with_tower("one", 8)
    assert identity_changes(one, identity_with_tower("moved", 8)) == []
    changes = identity_changes(one, identity_with_tower("other", 9))
    assert [line.split(":")[0] for line in changes] == ["model.image_tower.backbone"]


def test_run_of_a_version_without_a_key_is_continued_where_the_key_is_null(repository):
    present = identity(repository)
    former = {key: value for key, value in present.items() if key != "optimization.min_steps"}
    assert identity_changes(former, present) == []
    changed = identity(repository, "optimization.min_steps=50")
    assert identity_changes(former, changed) == ["optimization.min_steps: null before, now 50"]


def test_name_output_and_machine_are_free(repository):
    words = ("name=other", "output=elsewhere", "machine.threads=1", "checkpoints.keep_last=5")
    assert identity_changes(identity(repository), identity(repository, *words)) == []
