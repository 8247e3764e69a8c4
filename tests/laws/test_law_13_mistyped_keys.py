"""Law 13: a mistyped key names the right one, for every key of a recipe and every way to leave out
one letter or to swap two neighbours.
"""

import json
import re
from pathlib import Path

import pytest

from trainer.errors import BadRecipe
from trainer.recipe import load
from trainer.recipe.keys import Key, all_keys
from trainer.recipe.load import load_recipe

KEYS = list(all_keys())
LISTS = ("trackers", "data.train")
"""Keys that hold, or may hold, a list of sections."""
LEAST: dict[str, object] = {
    "name": "toy",
    "model": {"backbone": "some/model"},
    "data": {"train": "pairs.jsonl"},
}


def typos(word: str) -> set[str]:
    """Every way to leave out one letter or to swap two neighbours."""
    dropped = {word[:i] + word[i + 1 :] for i in range(len(word))}
    swapped = {word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in range(len(word) - 1)}
    return (dropped | swapped) - {word, ""}


def siblings(key: Key) -> set[str]:
    return {other.path[-1] for other in KEYS if other.path[:-1] == key.path[:-1]}


def nested(key: Key, mistyped: str) -> dict[str, object]:
    """The least recipe, with `mistyped` where the key would stand."""
    recipe = json.loads(json.dumps(LEAST))
    section = recipe
    for step in key.path[:-1]:
        section = section.setdefault(step, {})
    if key.kind and key.path[-1] != "kind":
        section["kind"] = key.kind
    section[mistyped] = 1
    return recipe


def in_a_list(key: Key) -> bool:
    """Whether the key is one of an item of a list."""
    return any(key.name.startswith(name + ".") for name in LISTS)


def message_of(recipe: dict[str, object], folder: Path) -> str:
    """What loading the recipe answers."""
    path = folder / "toy.yaml"
    path.write_text(json.dumps(recipe), encoding="utf-8")
    with pytest.raises(BadRecipe) as raised:
        load_recipe(path)
    return str(raised.value)


def suggests(message: str, wrong: str, right: str) -> bool:
    """Whether the message calls `wrong` no key and asks for `right` on the same line."""
    lines = [line for line in message.splitlines() if f" {wrong} is not a key" in line]
    return any(
        re.search(rf"did you mean [^?]*\b{re.escape(right)}( or|\?)", line) for line in lines
    )


def test_there_are_keys_and_typos_to_try() -> None:
    assert len(KEYS) > 60
    assert len(typos("seed")) > 4


@pytest.mark.parametrize(
    "key", [key for key in KEYS if not in_a_list(key)], ids=lambda key: f"{key.name}-{key.kind}"
)
def test_a_mistyped_key_names_the_right_one(key: Key, tmp_path: Path) -> None:
    for mistyped in sorted(typos(key.path[-1]) - siblings(key)):
        message = message_of(nested(key, mistyped), tmp_path)
        if key.name == "teacher.kind":
            # The section is null by default, so its kind has no default and is missing.
            assert (
                "teacher.kind is missing; give one of distribution, margins, vectors; did you mean"
                f" kind instead of {mistyped}?" in message
            )
        else:
            assert suggests(message, ".".join((*key.path[:-1], mistyped)), key.name), message


def test_a_mistyped_key_inside_a_list_names_the_right_one(tmp_path: Path) -> None:
    for mistyped in typos("project"):
        message = message_of({**LEAST, "trackers": [{"kind": "wandb", mistyped: "x"}]}, tmp_path)
        assert suggests(message, f"trackers.0.{mistyped}", "trackers.0.project"), message
    for mistyped in typos("weight"):
        message = message_of(
            {**LEAST, "data": {"train": [{"source": "a.jsonl", mistyped: 1}]}}, tmp_path
        )
        assert suggests(message, f"data.train.0.{mistyped}", "data.train.0.weight"), message


def test_an_answer_without_the_nearest_key_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted error: the first key of the recipe in place of the nearest one."""
    recipe = {**LEAST, "data": {"train": "pairs.jsonl", "valdation": "dev.jsonl"}}
    assert suggests(message_of(recipe, tmp_path), "data.valdation", "data.validation")
    monkeypatch.setattr(load, "nearest_keys", lambda *_: [KEYS[0].name])
    assert not suggests(message_of(recipe, tmp_path), "data.valdation", "data.validation")
