"""Reading, overriding and writing recipes; what a mistake in one is answered with."""

import json
import math
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.errors import BadRecipe
from trainer.recipe.load import dump_recipe, load_recipe, recipe_from_values
from trainer.recipe.schema.families import BiEncoderRecipe
from trainer.recipe.schema.model import FullTuning
from trainer.recipe.schema.objective import (
    BiEncoderContrastiveObjective,
    CosentObjective,
    TripletObjective,
)
from trainer.recipe.schema.trackers import TensorboardTracker, WandbTracker
from trainer.recipe.yaml_text import dump, parse, parse_word

LEAST = """\
name: toy
model:
  backbone: some/model
data:
  train: pairs.jsonl
"""


@pytest.fixture
def write(tmp_path: Path):  # type: ignore[no-untyped-def]
    def write(text: str) -> Path:
        path = tmp_path / "toy.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def problem(path: Path, *overrides: str) -> str:
    with pytest.raises(BadRecipe) as raised:
        load_recipe(path, overrides)
    return str(raised.value)


class TestReading:
    def test_missing_keys_have_their_defaults(self, write) -> None:
        recipe = load_recipe(write(LEAST))
        assert recipe == BiEncoderRecipe.model_validate(
            {"name": "toy", "model": {"backbone": "some/model"}, "data": {"train": "pairs.jsonl"}}
        )
        assert isinstance(recipe.objective, BiEncoderContrastiveObjective)

    def test_numbers_are_read_in_all_usual_notations(self, write) -> None:
        recipe = load_recipe(
            write(
                LEAST
                + "optimization: {learning_rate: 1e-3, weight_decay: 1, gradient_clip_norm: 5.e-1,"
                " head_learning_rate: .5}"
            )
        )
        optimization = recipe.optimization
        assert (
            optimization.learning_rate,
            optimization.weight_decay,
            optimization.gradient_clip_norm,
        ) == (0.001, 1.0, 0.5)
        assert optimization.head_learning_rate == 0.5
        assert type(optimization.weight_decay) is float

    def test_list_fills_a_tuple(self, write) -> None:
        recipe = load_recipe(write(LEAST + "trackers:\n- kind: wandb\n- kind: tensorboard\n"))
        assert recipe.trackers == (WandbTracker(), TensorboardTracker())

    def test_section_without_kind_is_the_default_variant(self, write) -> None:
        assert load_recipe(
            write(LEAST + "objective: {temperature: 0.5}")
        ).objective == BiEncoderContrastiveObjective(temperature=0.5)

    def test_byte_order_mark_is_no_part_of_the_first_key(self, write) -> None:
        assert load_recipe(write("\ufeff" + LEAST)).name == "toy"

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("", "is empty"),
            ("# nothing\n", "is empty"),
            ("- a\n", 'contains ["a"]'),
            ("hello", 'contains "hello"'),
        ],
    )
    def test_file_that_is_no_map_is_refused(self, write, text: str, says: str) -> None:
        assert says in problem(write(text))
        assert "a map with at least name, model and data" in problem(write(text))

    def test_missing_file_is_refused(self, tmp_path: Path) -> None:
        assert "there is no file" in problem(tmp_path / "no.yaml")
        assert "Is a directory" in problem(tmp_path)

    def test_broken_yaml_names_the_line(self, write) -> None:
        message = problem(write(LEAST + "output: [runs\nseed: 1\n"))
        assert "toy.yaml:7: this is not YAML" in message
        assert "put text that contains ': ' in quotes" in problem(write("name: a: b"))


class TestMistakes:
    def test_mistyped_key_names_place_line_and_the_nearest_key(self, write) -> None:
        message = problem(write(LEAST + "optimization:\n  epochs: 2\n  learning_rat: 1e-3\n"))
        assert message.endswith(
            "toy.yaml:8: optimization.learning_rat is not a key; did you mean"
            " optimization.learning_rate?"
        )

    def test_key_in_the_wrong_section_names_the_right_one(self, write) -> None:
        assert "batch_size is not a key; did you mean optimization.batch_size?" in problem(
            write(LEAST + "batch_size: 3")
        )
        assert (
            "model.learning_rate is not a key; did you mean optimization.learning_rate"
            in problem(write(LEAST), "model.learning_rate=1")
        )

    def test_unknown_key_lists_the_allowed_keys(self, write) -> None:
        message = problem(write(LEAST + "validation: {zzzzzz: 3}"))
        assert (
            "validation.zzzzzz is not a key; the keys here are every_steps, patience, interpolate"
            " (`nearfar recipe explain` lists all)" in message
        )

    def test_key_of_another_variant_names_this_variant(self, write) -> None:
        assert (
            "objective.margin is not a key of objective.kind contrastive; it belongs to kind"
            " triplet" in problem(write(LEAST + "objective: {kind: contrastive, margin: 0.2}"))
        )

    def test_mistyped_variant_is_refused(self, write) -> None:
        message = problem(write(LEAST + "objective:\n  kind: contrastiv\n"))
        assert (
            'toy.yaml:7: objective.kind: "contrastiv" is not one of contrastive, sigmoid,'
            " distillation, margin_mse, cosent, triplet"
        ) in message
        assert message.endswith("; did you mean contrastive?")
        assert "model.tuning.kind: 3 is not one of lora, full" in problem(
            write(LEAST), "model.tuning.kind=3"
        )

    def test_item_of_a_list_needs_a_kind(self, write) -> None:
        assert (
            "trackers.1.kind is missing; give one of wandb, tensorboard, mlflow, trackio; did you"
            " mean kind instead of knd?"
            in problem(write(LEAST + "trackers: [{kind: wandb}, {knd: wandb}]"))
        )
        assert "trackers.0.projct is not a key; did you mean trackers.0.project?" in problem(
            write(LEAST + "trackers: [{kind: wandb, projct: x}]")
        )

    @pytest.mark.parametrize(
        ("override", "says"),
        [
            ("seed=x", 'seed: "x" is not allowed here; give a whole number of at least 0'),
            ("seed=-1", "seed: -1 is not allowed here"),
            ("seed=1.5", "seed: 1.5 is not allowed here"),
            ("seed=null", "seed: null is not allowed here"),
            (
                "optimization.learning_rate=.nan",
                "optimization.learning_rate: NaN is not allowed here; give a number greater than 0",
            ),
            (
                "optimization.learning_rate=.inf",
                "optimization.learning_rate: Infinity is not allowed here",
            ),
            (
                "optimization.learning_rate=1e999",
                "optimization.learning_rate: Infinity is not allowed here",
            ),
            (
                "optimization.learning_rate='1e-3'",
                'optimization.learning_rate: "1e-3" is not allowed here',
            ),
            (
                "optimization.schedule=cosin",
                (
                    'optimization.schedule: "cosin" is not allowed here; give cosine, linear or'
                    " constant; did you mean cosine?"
                ),
            ),
            ("machine.precision=bfloat", "give auto, fp32, bf16 or fp16"),
            (
                "machine.micro_batch_tokens=0",
                (
                    "machine.micro_batch_tokens: 0 is not allowed here; give a whole number greater"
                    " than 0 or auto"
                ),
            ),
            (
                "objective.symmetric=yes",
                'objective.symmetric: "yes" is not allowed here; give true or false',
            ),
            ("name=2024", "name: 2024 is not allowed here; give text"),
            ("name=2024", "put it in quotes to make it text"),
            ("name=../up", 'name: "../up" is not allowed here; give text matching'),
            ("model=x", 'model: "x" is not allowed here; give a map'),
            (
                "trackers=wandb",
                (
                    'trackers: "wandb" is not allowed here; give a list of maps, each with kind'
                    " wandb, tensorboard, mlflow or trackio"
                ),
            ),
            (
                "data.columns={query: 3}",
                "data.columns.query: 3 is not allowed here; give a map of text to text",
            ),
            (
                "model.tuning.target_modules=[query, 3]",
                "model.tuning.target_modules.1: 3 is not allowed here; give a list of text or null",
            ),
        ],
    )
    def test_wrong_value_names_the_value_and_what_is_allowed(
        self, write, override: str, says: str
    ) -> None:
        message = problem(write(LEAST), override)
        assert message.startswith("command line: ")
        assert says in message
        assert "\n" not in message

    def test_missing_key_is_named(self, write) -> None:
        message = problem(write("name: toy"))
        assert "2 problems in recipe" in message
        assert (
            "model is missing and has no default; give a map with at least model.backbone"
            in message
        )
        assert "data is missing and has no default; give a map with at least data.train" in message
        assert (
            "data.train is missing and has no default; give text or a list of maps: a JSONL"
            in problem(write("name: toy\nmodel: {backbone: x}\ndata: {test: x}"))
        )

    def test_problems_are_reported_together_each_on_its_line(self, write) -> None:
        lines = problem(
            write(LEAST + "seed: x\noutputs: y\nobjective: {kind: triplet, margin: -1}\n"),
            "machine.threads=0",
        ).splitlines()
        assert lines[0].startswith("4 problems in recipe ")
        assert sorted(line.split(": ")[1].split(" ")[0] for line in lines[1:]) == [
            "machine.threads",
            "objective.margin",
            "outputs",
            "seed",
        ]

    def test_long_value_is_shortened(self, write) -> None:
        assert len(problem(write(LEAST), "seed=" + "x" * 10_000)) < 200


class TestOverrides:
    def test_values_are_read_like_those_of_a_file(self, write) -> None:
        overrides = (
            "seed=7",
            "optimization.learning_rate=2e-5",
            "objective.symmetric=true",
            "model.pooling=cls",
            "validation.patience=3",
        )
        recipe = load_recipe(write(LEAST), overrides)
        assert (recipe.seed, recipe.optimization.learning_rate, recipe.objective.symmetric) == (
            7,
            2e-5,
            True,
        )
        assert (recipe.model.pooling, recipe.validation.patience) == ("cls", 3)

    def test_lists_and_maps_are_read(self, write) -> None:
        recipe = load_recipe(
            write(LEAST), ["trackers=[{kind: wandb}]", "data.columns={query: question}"]
        )
        assert recipe.trackers == (WandbTracker(),)
        assert recipe.data.columns == {"query": "question"}
        assert load_recipe(
            write(LEAST), ["trackers=[{kind: wandb}]", "trackers.0.project=mine"]
        ).trackers == (WandbTracker(project="mine"),)

    def test_entry_of_a_map_is_replaced(self, write) -> None:
        assert load_recipe(write(LEAST), ["data.columns.query=question"]).data.columns == {
            "query": "question"
        }

    @pytest.mark.parametrize("prompt", ["query: ", "a # b", "a=b", "- x", "Find: 'this' "])
    def test_text_is_read_literally(self, write, prompt: str) -> None:
        assert (
            load_recipe(write(LEAST), [f"model.query_prompt={prompt}"]).model.query_prompt == prompt
        )

    def test_quotes_make_text(self, write) -> None:
        assert load_recipe(write(LEAST), ["name='2024'"]).name == "2024"
        assert load_recipe(write(LEAST), ['model.query_prompt=""']).model.query_prompt == ""
        assert load_recipe(write(LEAST), ["model.query_prompt="]).model.query_prompt is None

    def test_later_override_counts(self, write) -> None:
        assert load_recipe(write(LEAST), ["seed=1", "seed=2"]).seed == 2

    def test_other_variant_drops_the_keys_of_the_former(self, write) -> None:
        given = "objective: {kind: contrastive, temperature: 0.1, learn_temperature: true}"
        path, negatives = write(LEAST + given), "data.negatives_per_query=1"
        triplet = load_recipe(path, ["objective.kind=triplet", negatives]).objective
        assert triplet == TripletObjective()
        settings = [negatives, "objective.kind=triplet", "objective.margin=0.5"]
        wide = TripletObjective(margin=0.5)
        assert load_recipe(path, settings).objective == wide
        assert load_recipe(path, settings[::-1]).objective == wide
        cosent = load_recipe(path, ["objective.kind=cosent"]).objective
        assert cosent == CosentObjective(temperature=0.1)
        without_kind = write(LEAST + "objective: {symmetric: true}")
        assert load_recipe(without_kind, settings).objective == wide
        full = load_recipe(write(LEAST), ["model.tuning.kind=full"]).model.tuning
        assert full == FullTuning()

    def test_other_variant_hides_no_mistake(self, write) -> None:
        path = write(LEAST + "objective: {kind: contrastive, sym: true}")
        assert "objective.sym is not a key" in problem(path, "objective.kind=triplet")
        message = problem(write(LEAST), "objective.symmetric=true", "objective.kind=triplet")
        assert (
            "command line: objective.symmetric is not a key of objective.kind triplet; it belongs"
            " to kind contrastive" in message
        )

    def test_override_corrects_the_file(self, write) -> None:
        assert load_recipe(write(LEAST + "seed: x"), ["seed=3"]).seed == 3

    @pytest.mark.parametrize(
        ("override", "says"),
        [
            ("epochs", "epochs has no '='; write key=value, such as optimization.epochs=..."),
            ("my.jsonl", "my.jsonl has no '='; write key=value"),
            ("=3", "=3 has an empty key"),
            ("model..backbone=x", "has an empty key"),
            ("epochs=4", "epochs is not a key; did you mean optimization.epochs?"),
            ("optimisation.epochs=4", "optimisation is not a key; did you mean optimization?"),
            (
                "optimization.epoch=4",
                "optimization.epoch is not a key; did you mean optimization.epochs?",
            ),
            ("seed.x=1", "seed.x cannot be set: seed is 13, which has no x"),
            (
                "trackers.0.kind=wandb",
                "trackers.0.kind cannot be set: trackers is [], which has no 0",
            ),
            ("trackers=[{kind: wandb}", "command line: trackers:1: this is not YAML"),
            ("model.query_prompt='a", "this is not YAML"),
        ],
    )
    def test_mistyped_override_is_refused(self, write, override: str, says: str) -> None:
        assert says in problem(write(LEAST + "seed: 13\ntrackers: []\n"), override)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.sampled_from(
    [
        "no",
        "yes",
        "on",
        "null",
        "~",
        "",
        "1e-3",
        "1_000",
        "010",
        "0x1f",
        "1:30",
        "2026-01-01",
        ".inf",
        "=",
        "<<",
        "true",
        "True",
        "- a",
        "a: b",
        "# c",
        "{",
        "'",
        '"',
        "*a",
        "!t",
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**15), 10**15) | st.floats(allow_nan=False) | TEXT,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            TEXT.filter(lambda key: isinstance(parse_word(key), str)), inner, max_size=4
        )
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(VALUES)
def test_yaml_reads_back_what_it_writes(value) -> None:
    text = dump(value)
    assert parse(text, "written").value == value
    assert yaml.safe_load(text) == value, "other readers of YAML see the same"


@settings(deadline=None)
@given(TEXT, TEXT, st.floats(1e-30, 1e30))
def test_random_recipe_reads_back_equal(
    tmp_path_factory, backbone: str, column: str, rate: float
) -> None:
    fields = {
        "name": "toy",
        "model": {"backbone": backbone},
        "data": {"train": column, "columns": {column: backbone}},
        "optimization": {"learning_rate": rate},
    }
    recipe = BiEncoderRecipe.model_validate(fields)
    path = tmp_path_factory.mktemp("recipe") / "dumped.yaml"
    path.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(path) == recipe


def test_nan_is_a_number_to_the_reader() -> None:
    assert math.isnan(parse_word(".nan"))  # type: ignore[arg-type]


def test_recipe_in_a_dictionary_is_read_as_its_file_is(tmp_path):
    values = {
        "name": "toy",
        "model": {"backbone": tmp_path / "model", "tuning": {"rank": 4}},
        "data": {"train": "pairs.jsonl"},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(values, default=str))
    changes = ["optimization.epochs=3"]
    assert recipe_from_values(values, changes) == load_recipe(path, changes)
    assert values["model"]["tuning"] == {"rank": 4}, "the caller's dictionary stays as it is"
    with pytest.raises(BadRecipe, match=r"the given recipe: .*did you mean"):
        recipe_from_values(values | {"optimization": {"epoch": 3}})
