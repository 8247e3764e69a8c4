"""Law 12: every recipe runs two steps on a toy model, by the way `nearfar fit` goes. That each
loads, dumps and loads to itself is in test_recipes_folder.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from image_toys import write_image_set
from toy_models import make_image_text_toy, masked_lm
from trained_weights import base_won, largest_change

from trainer.build.families.registry import build_model
from trainer.cli.fit import fit
from trainer.models.dense import DenseSettings, build_dense_encoder
from trainer.models.families import read_any
from trainer.models.formats.folder import save_encoder
from trainer.models.late_interaction import LateInteractionSettings, build_late_interaction_encoder
from trainer.recipe.load import load_recipe
from trainer.recipe.schema.base import BaseVectorRecipe
from trainer.recipe.schema.families import CrossEncoderRecipe, Recipe, SparseRecipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
SUBJECTS = (
    "disk",
    "account",
    "region",
    "machine",
    "database",
    "vault",
    "network",
    "cluster",
    "secret",
    "image",
)
VERBS = ("delete", "create", "list", "show")


def training_file(run: Recipe, folder: Path) -> Path:
    """Forty rows as the recipe wants them."""
    if run.has_images:
        return write_image_set(folder, range(40))
    pairs = [
        (f"{verb} {subject}", f"how to {verb} one {subject} {number}", number % 5)
        for number, subject in enumerate(SUBJECTS)
        for verb in VERBS
    ]
    path = folder / "train.jsonl"
    with path.open("w") as file:
        for number, (query, positive, grade) in enumerate(pairs):
            row = {"query": query, "positive": positive}
            if run.objective.kind == "cosent":
                row = {"sentence1": query, "sentence2": positive, "score": grade}
            elif run.data.negatives_per_query:
                row["negative"] = pairs[(number + 4) % len(pairs)][1]
            file.write(json.dumps(row) + "\n")
    return path


def small_model(run: Recipe, folder: Path, toy_folder: Callable[[str], Path]) -> Path:
    """A toy of the kind that the recipe starts from."""
    if isinstance(run, SparseRecipe):
        return masked_lm(toy_folder("bert"))
    if not run.has_images or getattr(run.model, "image_tower", None) is not None:
        return toy_folder("bert")
    make_image_text_toy("clip", folder / "clip")
    return folder / "clip"


def test_recipes_exist():
    assert len(RECIPES) >= 5


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_runs_two_steps(path, tmp_path, toy_folder):
    run = load_recipe(path)
    backbone, file = small_model(run, tmp_path, toy_folder), training_file(run, tmp_path)
    overrides = [
        f"model.backbone={backbone}",
        f"data.train={file}",
        *(f"data.{part}={file}" for part in ("validation", "test") if getattr(run.data, part)),
        f"output={tmp_path / 'runs'}",
        "optimization.batch_size=4",
        "optimization.max_steps=2",
        "optimization.warmup_steps=0",
        "machine.accelerator=cpu",
        "machine.precision=fp32",
    ]
    if getattr(run.model, "image_tower", None) is not None:
        overrides.append("model.image_tower.layers=1")
    if isinstance(run, SparseRecipe):
        overrides.append("model.document_max_length_tokens=64")
    if isinstance(run, CrossEncoderRecipe):
        overrides += [
            "objective.random_negatives=3",
            "model.document_max_length_tokens=64",
        ]  # of four rows, for positions of the toy
    elif getattr(run.model, "projection_dimensions", None) is not None:
        overrides.append("model.projection_dimensions=8")
    if isinstance(run, BaseVectorRecipe) and run.model.layers is not None:
        overrides.append("model.layers=1")
    if isinstance(run, BaseVectorRecipe) and run.matryoshka_section is not None:
        overrides.append("matryoshka.dimensions=[32, 8]")
    if isinstance(run, BaseVectorRecipe) and run.teacher is not None:
        start = {"backbone": str(backbone), "projection_dimensions": 8, "lora": None}
        teacher = (
            build_dense_encoder(DenseSettings(**start))
            if run.teacher.kind == "vectors"
            else build_late_interaction_encoder(LateInteractionSettings(**start))
        )
        save_encoder(teacher, tmp_path / "teacher")
        overrides.append(f"teacher.models=[{tmp_path / 'teacher'}]")
    fit(path, overrides)
    folder = tmp_path / "runs" / run.name
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    steps = [record for record in records if "train/loss" in record]
    assert len(steps) == 2
    assert all(record["train/gradient_norm"] > 0 for record in steps)
    assert any("validation/ndcg@10" in record for record in records)
    assert (folder / "report.html").is_file()
    before, after = (
        build_model(load_recipe(path, overrides)).eval(),
        read_any(str(folder / "model")),
    )
    assert largest_change(folder, before) > 1e-6, "something was learned"
    if not base_won(folder):
        texts = before.tokenize(["delete one disk"], "query")
        with torch.no_grad():
            assert (before(texts) - after(texts)).abs().max() > 1e-6, "and it was saved"
    assert load_recipe(folder / "recipe.yaml") == load_recipe(path, overrides)
