"""Law 13: a mistyped key names the right one, for every key of a recipe and every way to leave out
one letter or to swap two neighbours.
"""

import json
import re
from pathlib import Path

import pytest

from trainer.errors import BadRecipe
from trainer.recipe import keys
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
IN_FAMILIES = [
    pytest.param(key, family, id=f"{key.name}-{key.variant}-{family}")
    for key in KEYS
    for family in key.fields
    if not any(key.name.startswith(f"{name}.") for name in LISTS)
]


def typos(word: str) -> set[str]:
    """Every way to leave out one letter or to swap two neighbours."""
    dropped = {word[:i] + word[i + 1 :] for i in range(len(word))}
    swapped = {word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in range(len(word) - 1)}
    return (dropped | swapped) - {word, ""}


def siblings(key: Key) -> set[str]:
    return {other.path[-1] for other in KEYS if other.path[:-1] == key.path[:-1]}


def nested(key: Key, family: str, mistyped: str) -> dict[str, object]:
    """The least recipe of a family, with `mistyped` where the key would stand."""
    recipe = json.loads(json.dumps(LEAST | ({} if key.path == ("kind",) else {"kind": family})))
    section = recipe
    for step in key.path[:-1]:
        section = section.setdefault(step, {})
    if key.variant and key.path[-1] != "kind":
        section["kind"] = key.variant
    section[mistyped] = 1
    return recipe


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


def test_keys_and_typos_exist() -> None:
    assert len(KEYS) > 60
    assert len(typos("seed")) > 4


@pytest.mark.parametrize(("key", "family"), IN_FAMILIES)
def test_mistyped_key_names_the_right_one(key: Key, family: str, tmp_path: Path) -> None:
    for mistyped in sorted(typos(key.path[-1]) - siblings(key)):
        message = message_of(nested(key, family, mistyped), tmp_path)
        # Where a section has no default, neither has its kind, which is missing then.
        has_default = key.name not in ("teacher.kind", "model.image_tower.kind")
        if not has_default or (key.name, family) == ("objective.kind", "cross_encoder"):
            assert re.search(
                rf"{key.name} is missing; give one of [a-z_, ]+; did you mean kind instead of"
                rf" {mistyped}\?",
                message,
            ), message
        else:
            assert suggests(message, ".".join((*key.path[:-1], mistyped)), key.name), message


def test_mistyped_key_in_a_list_names_the_right_one(tmp_path: Path) -> None:
    for mistyped in typos("project"):
        message = message_of({**LEAST, "trackers": [{"kind": "wandb", mistyped: "x"}]}, tmp_path)
        assert suggests(message, f"trackers.0.{mistyped}", "trackers.0.project"), message
    for mistyped in typos("weight"):
        message = message_of(
            {**LEAST, "data": {"train": [{"source": "a.jsonl", mistyped: 1}]}}, tmp_path
        )
        assert suggests(message, f"data.train.0.{mistyped}", "data.train.0.weight"), message


def test_answer_without_the_nearest_key_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted error: the first key of the recipe in place of the nearest one."""
    recipe = {**LEAST, "data": {"train": "pairs.jsonl", "valdation": "dev.jsonl"}}
    assert suggests(message_of(recipe, tmp_path), "data.valdation", "data.validation")
    monkeypatch.setattr(keys, "nearest_keys", lambda *_: [KEYS[0].name])
    assert not suggests(message_of(recipe, tmp_path), "data.valdation", "data.validation")
