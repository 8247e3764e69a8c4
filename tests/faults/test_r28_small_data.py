"""R28: the last incomplete batch, fewer rows than a batch, no rows: each is defined, said, and
hangs nothing.
"""

import json
import math
import re

import numpy as np
import pytest
from killable import Command

from trainer.build.module import total_steps
from trainer.cli.fit import fit
from trainer.data.order import batch_samples
from trainer.errors import BadData, NearfarError
from trainer.recipe.schema.training import OptimizationSection

RECIPE = "recipes/bi-encoder-lora.yaml"
WORDS = (
    "disk",
    "vault",
    "image",
    "region",
    "secret",
    "network",
    "cluster",
    "database",
    "machine",
    "account",
    "policy",
    "queue",
    "topic",
    "zone",
)


def file_of(rows, tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text(
        "".join(
            json.dumps({"query": f"delete {word}", "positive": f"removes one {word} for good"})
            + "\n"
            for word in WORDS[:rows]
        )
    )
    return path


def settings(backbone, data, folder, *more):
    return [
        f"model.backbone={backbone}",
        f"data.train={data}",
        f"output={folder}",
        "name=r28",
        "machine.accelerator=cpu",
        "machine.precision=fp32",
        "machine.threads=1",
        *more,
    ]


def test_fewer_rows_than_a_batch_names_a_batch_size_that_works(tmp_path, toy_folder, repository):
    data, runs = file_of(10, tmp_path), tmp_path / "runs"
    with pytest.raises(BadData, match=r"9 training rows do not fill one batch of 64") as raised:
        fit(repository / RECIPE, settings(toy_folder("bert"), data, runs))
    assert raised.value.exit_code == 2
    assert not runs.exists(), "nothing was written"
    named = int(re.search(r"optimization\.batch_size to at most (\d+)", str(raised.value)).group(1))
    assert named == 9
    fit(
        repository / RECIPE,
        settings(
            toy_folder("bert"),
            data,
            runs,
            f"optimization.batch_size={named}",
            "optimization.epochs=1",
        ),
    )
    assert (runs / "r28" / "model").is_dir()


@pytest.mark.parametrize(
    ("rows", "message"), [(0, "train.jsonl has no rows"), (10, "do not fill one batch of 64")]
)
def test_small_data_are_refused_the_same_on_all_ranks(tmp_path, toy_folder, rows, message):
    arguments = settings(toy_folder("bert"), file_of(rows, tmp_path), tmp_path / "runs")
    command = Command("fit", RECIPE, *arguments, ranks=2)
    assert command.wait(60) == [2, 2], command.text()
    assert message in command.text()
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("samples", [0, 1])
def test_error_names_no_batch_size_when_none_works(samples):
    """InfoNCE compares at least two rows."""
    with pytest.raises(BadData, match=rf"{samples} training rows? do(es)? not fill") as raised:
        total_steps(OptimizationSection(batch_size=4), samples)
    assert "batch_size to at most" not in str(raised.value)


def test_rows_that_fill_no_batch_share_one_with_the_next_pass(
    tmp_path, toy_folder, repository, capsys
):
    data, runs = file_of(14, tmp_path), tmp_path / "runs"
    fit(
        repository / RECIPE,
        settings(
            toy_folder("bert"), data, runs, "optimization.batch_size=5", "optimization.epochs=3"
        ),
    )
    records = [json.loads(line) for line in (runs / "r28" / "log.jsonl").read_text().splitlines()]
    losses = [record["train/loss"] for record in records if "train/loss" in record]
    rows = 13  # one query of fourteen is held out
    assert len(losses) == 8, "39 rows in batches of 5; the last takes one more"
    assert all(map(math.isfinite, losses))
    assert f"8 steps of 5 queries, {40 / rows:.3g} passes" in capsys.readouterr().err
    validations = [record["step"] for record in records if "validation/ndcg@10" in record]
    assert validations == [0, 0, 1, 2, 5, 7], "before training, in the first pass, one per pass"


@pytest.mark.parametrize(
    ("rows", "steps"), [(15, 6), (19, 8), (151, 61)], ids=["no rest", "a rest", "a small rest"]
)
def test_every_row_is_in_one_batch_per_epoch(rows, steps):
    settings = OptimizationSection(batch_size=5, epochs=2)
    assert total_steps(settings, rows) == steps
    seen = np.concatenate([batch_samples(0, step, rows, 5) for step in range(steps)])
    assert np.bincount(seen, minlength=rows).min() == 2
    assert total_steps(OptimizationSection(batch_size=5, epochs=2, max_steps=4), rows) == 4


@pytest.mark.parametrize(
    "content",
    ["", "\n\n", '{"query": " ", "positive": "x"}\n'],
    ids=["empty file", "blank lines", "blank texts"],
)
@pytest.mark.parametrize("recipe_file", ["bi-encoder-lora", "scored-pairs"])
def test_data_without_rows_are_refused(tmp_path, toy_folder, repository, content, recipe_file):
    data, runs = tmp_path / "train.jsonl", tmp_path / "runs"
    data.write_text(content)
    with pytest.raises(NearfarError, match=r"train\.jsonl") as raised:
        fit(repository / f"recipes/{recipe_file}.yaml", settings(toy_folder("bert"), data, runs))
    assert raised.value.exit_code in (2, 87)
    assert not runs.exists()


@pytest.mark.parametrize("rows", [1, 2])
def test_too_few_rows_for_a_validation_part_are_refused(tmp_path, toy_folder, repository, rows):
    data, runs = file_of(rows, tmp_path), tmp_path / "runs"
    with pytest.raises(BadData) as raised:
        fit(
            repository / RECIPE,
            settings(toy_folder("bert"), data, runs, "optimization.batch_size=2"),
        )
    assert raised.value.exit_code == 2
    assert not runs.exists()


def test_data_without_rows_are_refused_with_a_validation_set_too(tmp_path, toy_folder, repository):
    data, runs, empty = file_of(5, tmp_path), tmp_path / "runs", tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(NearfarError) as raised:
        fit(
            repository / "recipes/scored-pairs.yaml",
            settings(toy_folder("bert"), empty, runs, f"data.validation={data}"),
        )
    assert raised.value.exit_code == 2
    assert not runs.exists()
