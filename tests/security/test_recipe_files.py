"""S07: hostile recipe files are refused, with the key and line, and nothing they ask for happens.
S11 on the way out.
"""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from trainer.errors import BadRecipe
from trainer.recipe.load import load_recipe
from trainer.recipe.yaml_text import MAXIMUM_BYTES

HEAD = "name: toy\nmodel: {backbone: x}\ndata: {train: y}\n"


def refusal(tmp_path: Path, text: str | bytes, *overrides: str) -> str:
    path = tmp_path / "hostile.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BadRecipe) as raised:
        load_recipe(path, overrides)
    return str(raised.value)


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.system [touch MARKER]",
        "!!python/object/new:os.system [touch MARKER]",
        "!!python/name:os.system ''",
        "!!python/module:os ''",
        "!!python/tuple [1]",
        "!!binary aGVsbG8=",
        "!!set {a}",
        "!!timestamp 2026-01-01",
        "!!str x",
        "! x",
        "!anything {a: 1}",
        "!<tag:yaml.org,2002:python/object/apply:os.system> [touch MARKER]",
    ],
)
def test_tags_build_nothing(tmp_path: Path, tag: str) -> None:
    marker = tmp_path / "marker"
    hostile = tag.replace("MARKER", str(marker))
    assert "hostile.yaml:4: output: the tag !" in refusal(tmp_path, f"{HEAD}output: {hostile}\n")
    assert "the tag !" in refusal(tmp_path, f"{HEAD}? {hostile}\n: 1\n"), "nor as a key"
    assert "the tag !" in refusal(tmp_path, HEAD, f"trackers=[{hostile}]")
    assert not marker.exists()


def test_shorthand_of_a_tag_is_refused(tmp_path: Path) -> None:
    text = (
        "%TAG !p! tag:yaml.org,2002:python/\n---\n"
        + HEAD
        + "output: !p!object/apply:os.system [id]\n"
    )
    assert "the tag !!python/object/apply:os.system would build" in refusal(tmp_path, text)


def test_alias_bomb_does_not_expand(tmp_path: Path) -> None:
    bomb = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n"
        for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    before = time.process_time()
    assert "hostile.yaml:5: b.0: `*a` repeats another part" in refusal(tmp_path, HEAD + bomb)
    assert time.process_time() - before < 2


@pytest.mark.parametrize(
    "text", ["x: &a {y: *a}\n", "<<: &a {seed: 3}\nx: *a\n", "trackers: &a [*a]\n"]
)
def test_aliases_are_refused(tmp_path: Path, text: str) -> None:
    assert "`*a` repeats another part of the file; write the value out" in refusal(
        tmp_path, HEAD + text
    )


def test_merge_key_is_an_ordinary_key(tmp_path: Path) -> None:
    assert "<< is not a key" in refusal(tmp_path, HEAD + "<<: {seed: 3}\n")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("seed: 1\nseed: 2\n", "hostile.yaml:5: seed: given twice, first on line 4"),
        ("seed: 1\n'seed': 2\n", "hostile.yaml:5: seed: given twice, first on line 4"),
        (
            "objective:\n  kind: cosent\n  temperature: 1\n  kind: triplet\n",
            "hostile.yaml:7: objective.kind: given twice, first on line 5",
        ),
        (
            "trackers: [{kind: wandb, kind: tensorboard}]\n",
            "hostile.yaml:4: trackers.0.kind: given twice",
        ),
    ],
)
def test_duplicate_keys_are_refused(tmp_path: Path, text: str, says: str) -> None:
    assert says in refusal(tmp_path, HEAD + text)


@pytest.mark.parametrize("place", ["", "model.", "model.tuning.", "data.columns.x.", "trackers.0."])
def test_import_paths_are_refused(tmp_path: Path, place: str) -> None:
    message = refusal(tmp_path, HEAD + "trackers: [{kind: wandb}]\n", f"{place}_target_=os.system")
    assert message.startswith("command line: " + place.removesuffix(".x."))
    assert "_target_" in message


@pytest.mark.parametrize("key", ["[a]", "{a: 1}", "3", "true", "null", "1.5"])
def test_keys_are_text(tmp_path: Path, key: str) -> None:
    assert "cannot be a key; keys are text" in refusal(tmp_path, f"{HEAD}? {key}\n: 1\n")


def test_deep_nesting_is_refused_early(tmp_path: Path) -> None:
    before = time.process_time()
    assert "nested more than 20 levels deep" in refusal(
        tmp_path, HEAD + "trackers: " + "[" * 900_000
    )
    assert "nested more than 20 levels deep" in refusal(
        tmp_path, HEAD + "trackers: " + "{a: " * 200_000
    )
    assert "nested more than 20 levels deep" in refusal(
        tmp_path, HEAD + "".join(" " * depth + "a:\n" for depth in range(300))
    )
    assert time.process_time() - before < 10


def test_large_file_is_not_read(tmp_path: Path) -> None:
    assert "is larger than 1,000,000 bytes" in refusal(
        tmp_path, HEAD.encode() + b"#" * MAXIMUM_BYTES
    )
    with pytest.raises(BadRecipe, match="is larger than"):
        load_recipe("/dev/zero")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"name: \xff\xfe", "is not UTF-8 text (byte 6)"),
        (b"name: a\x00b\n", "is not allowed in YAML"),
        (b"name: a\x1b[31m\n", "is not allowed in YAML"),
        (b'name: "\\ud800"\n', "a lone surrogate"),
        (b"name: [1, 2\n", "this is not YAML"),
        (b"name: 'x\n", "this is not YAML"),
        (b"name: @x\n", "this is not YAML"),
        (b"\tname: x\n", "this is not YAML"),
        (b"name: *nobody\n", "`*nobody` repeats"),
        (b"name: a\n---\nname: b\n", "a second document starts here"),
        (b"name: " + b"9" * 5000 + b"\n", "name: Infinity is not allowed here"),
        (b"seed: 123456789012345678901234567890\n", "model is missing"),
        (b"%YAML 9.9\n---\nname: x\n", "this is not YAML"),
    ],
)
def test_broken_files_give_named_errors(tmp_path: Path, content: bytes, says: str) -> None:
    assert says in refusal(tmp_path, content)


def test_quotations_of_a_file_move_no_cursor(tmp_path: Path) -> None:
    path = tmp_path / "hostile.yaml"
    path.write_text(
        HEAD + 'optimization: {schedule: "\\e]0;owned\\a\\x9b2J\\u202e"}\noutput:'
        ' "\\e[2J"\n"\\e[31m": 1\n',
        encoding="utf-8",
    )
    ended = subprocess.run(
        [sys.executable, "-m", "trainer", "recipe", "check", str(path)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 2
    assert "schedule" in ended.stderr
    assert "\\x1b[31m is not a key" in ended.stderr
    assert all(
        character.isprintable() or character == "\n" for character in ended.stdout + ended.stderr
    )
