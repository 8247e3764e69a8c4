"""Mixtures from the recipe to the batches: files of different layouts, one hold-out for all,
mistakes told at their place.
"""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from trainer.batch import identity
from trainer.build import checks as recipe_checks
from trainer.build.data import data_sets
from trainer.data.mixture import Mixture, build_mixture, concatenate, whole_weights
from trainer.data.readers.read import read_rows
from trainer.data.readers.report import ReadReport
from trainer.data.rows import Row, Rows, known_positives
from trainer.errors import BadData, BadRecipe
from trainer.recipe.load import dump_recipe, load_recipe
from trainer.recipe.schema.data import DataSection, Source
from trainer.recipe.schema.families import BiEncoderRecipe
from trainer.recipe.schema.model import BiEncoderModel
from trainer.recipe.schema.objective import CosentObjective

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


@pytest.fixture
def files(tmp_path) -> tuple[Path, Path]:
    lines, table = tmp_path / "lines.jsonl", tmp_path / "table.csv"
    pairs = [
        (f"{verb} {subject}", f"how to {verb} the {subject}")
        for verb in ("delete", "create", "list")
        for subject in SUBJECTS
    ]
    lines.write_text(
        "".join(
            json.dumps({"query": query, "positive": positive}) + "\n" for query, positive in pairs
        )
    )
    other = [
        (f"cost of a {subject}", f"the {subject} costs {len(subject)}") for subject in SUBJECTS
    ]
    both = [
        ("Delete disk!", "another text about it"),
        ("create account", "a second positive"),
    ]  # queries of the first file too
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([("asked", "answered"), *other, *both])
    return lines, table


def data_of(files, **changes):
    lines, table = files
    several = (
        Source(source=str(lines)),
        Source(source=str(table), columns={"query": "asked", "positive": "answered"}),
    )
    return DataSection(**({"train": several, "validation_ratio": 0.2} | changes))


def test_files_of_two_layouts_are_read_and_mixed(files):
    data = data_sets(data_of(files), seed=13)
    assert data.mixture is not None
    assert sum(data.mixture.sizes) == len(data.train)
    assert data.mixture.names == tuple(map(str, files))
    assert data.mixture.weights == whole_weights(data.mixture.sizes), (
        "no weights: the numbers of rows"
    )
    first, second = np.split(np.arange(len(data.train)), [data.mixture.sizes[0]])
    assert all(data.train[int(at)].source.startswith("lines.jsonl:") for at in first)
    assert all(data.train[int(at)].source.startswith("table.csv:") for at in second)
    held = {query.lower().strip("!") for query in data.validation.queries}
    assert held
    assert not held & {row.query.lower().strip("!") for row in data.train}


@pytest.mark.parametrize("seed", range(8))
def test_query_of_both_files_stays_in_one_split(files, seed):
    data = data_sets(data_of(files), seed)
    trained = {row.query.lower().strip("!") for row in data.train}
    assert ("delete disk" in trained) != (
        "delete disk" in {query.lower().strip("!") for query in data.validation.queries}
    )


def test_known_positives_come_from_all_sets(files):
    rows = concatenate(
        [
            read_rows(str(files[0])),
            read_rows(str(files[1]), columns={"query": "asked", "positive": "answered"}),
        ]
    )
    assert known_positives(rows)[identity("create account")] == {
        identity("how to create the account"),
        identity("a second positive"),
    }


def test_validation_file_leaves_all_rows_for_training(files):
    data = data_sets(data_of(files, validation=str(files[0])), seed=13)
    assert data.mixture is not None
    assert data.mixture.sizes == (30, 12)


def test_list_of_one_set_equals_the_set(files):
    alone = data_sets(data_of(files, train=(Source(source=str(files[0])),)), seed=13)
    as_text = data_sets(data_of(files, train=str(files[0])), seed=13)
    assert alone.mixture is as_text.mixture is None
    assert list(alone.train) == list(as_text.train)


def test_weights_of_only_some_sets_are_refused(files):
    several = (Source(source=str(files[0]), weight=2), Source(source="not even read"))
    with pytest.raises(BadRecipe, match="a weight to 1 of its 2 sets"):
        data_sets(data_of(files, train=several), seed=13)


def test_set_without_remaining_rows_is_refused_by_name():
    sets = [
        Rows.of([Row("a", "b"), Row("c", "d")], ReadReport("big.jsonl")),
        Rows.of([Row("e", "f")], ReadReport("small.jsonl")),
    ]
    left = concatenate(sets).select(np.array([0, 1]))
    with pytest.raises(
        BadData, match=r"small\.jsonl: all its rows are held out.*data\.validation=FILE"
    ):
        build_mixture(sets, left, [None, None], False)
    assert build_mixture(
        sets, concatenate(sets).select(np.array([1, 2])), [None, None], False
    ).sizes == (
        1,
        1,
    )


def run_of(data, **sections):
    return BiEncoderRecipe(name="a", model=BiEncoderModel(backbone="b"), data=data, **sections)


def test_sets_are_checked_for_what_the_objective_needs(files):
    rows = Rows.of([Row("a", "b"), Row("c", "d"), Row("e", "f", labels=(1.0,))])
    mixture = Mixture(tuple(map(str, files)), (2, 1), (1, 1))
    with pytest.raises(BadData, match=r"table\.csv holds scored pairs"):
        recipe_checks.check_objective(run_of(data_of(files)), rows, mixture)
    with pytest.raises(BadData, match=r"cosent needs a score for every pair, but .*lines\.jsonl"):
        recipe_checks.check_objective(
            run_of(data_of(files), objective=CosentObjective()), rows, mixture
        )
    with pytest.raises(BadData, match="of a batch would come from it"):
        recipe_checks.check_objective(run_of(data_of(files)), Rows.of([Row("a", "b")] * 3), mixture)


# The recipe.

RECIPE = """
name: toy
model: {backbone: some/model}
data:
  train:
    - {source: a.jsonl, weight: 2}
    - {source: b.csv, weight: 0.5, columns: {query: asked}}
  mixing: one_source_per_batch
"""


@pytest.fixture
def written(tmp_path) -> Path:
    path = tmp_path / "toy.yaml"
    path.write_text(RECIPE)
    return path


def test_recipe_with_a_mixture_loads_dumps_and_loads_to_itself(written, tmp_path):
    run = load_recipe(written)
    assert (
        run.data.train
        == run.data.sources
        == (
            Source(source="a.jsonl", weight=2.0),
            Source(source="b.csv", weight=0.5, columns={"query": "asked"}),
        )
    )
    dumped = tmp_path / "dumped.yaml"
    dumped.write_text(dump_recipe(run))
    assert load_recipe(dumped) == run
    assert load_recipe(dumped, ["data.train=one.jsonl"]).data.sources == (
        Source(source="one.jsonl"),
    )
    assert load_recipe(written, ["data.train.1.weight=3"]).data.sources[1].weight == 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "data.train.0.wieght=2",
            r"data\.train\.0\.wieght is not a key; did you mean data\.train\.0\.weight\?",
        ),
        (
            "data.train.1.colums={}",
            r"data\.train\.1\.colums is not a key; did you mean data\.train\.1\.columns\?",
        ),
        (
            "data.train.0.weight=0",
            r"data\.train\.0\.weight: 0 is not allowed here; give a number greater than 0 or null",
        ),
        ("data.train.0.weight='2'", r"data\.train\.0\.weight: \"2\" is not allowed here"),
        ("data.train.0.weight=true", r"data\.train\.0\.weight: true is not allowed here"),
        ("data.train=[]", r"data\.train: \[\] is not allowed here"),
        ("data.train=[{weight: 1}]", r"data\.train\.0\.source is missing"),
        ("data.train=3", r"data\.train: 3 is not allowed here"),
        ("data.mixing=sampels", "did you mean samples"),
    ],
)
def test_mistake_in_a_mixture_names_its_place(written, override, message):
    with pytest.raises(BadRecipe, match=message):
        load_recipe(written, [override])
