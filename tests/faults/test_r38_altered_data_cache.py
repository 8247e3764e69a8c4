"""R38: an entry of the data cache that was altered is noticed and built again, never trained on."""

import json
import logging
import shutil
from itertools import product
from pathlib import Path

import pytest

from trainer.build.data import data_sets
from trainer.recipe.schema.data import DataSection
from trainer.storage.atomic import write_text


def section(path: Path) -> DataSection:
    path.write_text(
        "".join(
            json.dumps({"query": f"query {number}", "positive": f"text {number} is the answer"})
            + "\n"
            for number in range(200)
        )
    )
    return DataSection(train=str(path), validation_ratio=0.1)


def flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(b"answer") if b"answer" in content else len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def replace_by_link(path: Path) -> None:
    path.rename(path.with_suffix(".elsewhere"))
    path.symlink_to(path.with_suffix(".elsewhere"))


def alter_fact(path: Path) -> None:
    content = json.loads(path.read_text())
    content["facts"]["rows_read"] = 100
    path.write_text(json.dumps(content))


def empty(path: Path) -> None:
    write_text(path, "")


def write_list(path: Path) -> None:
    write_text(path, "[1, 2]")


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *product(
            ["rows.arrow", "parts.arrow"], [flip_byte, truncate, replace_by_link, Path.unlink]
        ),
        *product(["manifest.json"], [flip_byte, truncate, Path.unlink, empty, write_list]),
    ],
)
def test_r38_damaged_entry_is_built_again(name, damage, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("NEARFAR_CACHE", str(tmp_path / "cache"))
    data = section(tmp_path / "x.jsonl")
    expected = [*data_sets(data, seed=1).train]
    for path in (tmp_path / "cache").rglob(name):
        damage(path)
    with caplog.at_level(logging.WARNING):
        assert [*data_sets(data, seed=1).train] == expected
    assert "it is built again from the data" in caplog.text
    caplog.clear()
    assert [*data_sets(data, seed=1).train] == expected
    assert not caplog.text


def test_r38_altered_manifest_is_not_believed(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("NEARFAR_CACHE", str(tmp_path / "cache"))
    data = section(tmp_path / "x.jsonl")
    data_sets(data, seed=1)
    for path in (tmp_path / "cache").rglob("manifest.json"):
        alter_fact(path)
    with caplog.at_level(logging.WARNING):
        assert data_sets(data, seed=1).train.report.rows_read == 200
    assert "manifest.json was altered: its SHA-256 is not the recorded one" in caplog.text


def test_r38_entry_of_other_data_is_built_again(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("NEARFAR_CACHE", str(tmp_path / "cache"))
    one, other = (section(tmp_path / name) for name in ("one.jsonl", "other.jsonl"))
    Path(other.train).write_text(Path(one.train).read_text().replace("answer", "reply"))
    data_sets(one, seed=1)
    [first] = [path.parent for path in (tmp_path / "cache").rglob("rows.arrow")]
    data_sets(other, seed=1)
    [second] = {path.parent for path in (tmp_path / "cache").rglob("rows.arrow")} - {first}
    shutil.rmtree(second)
    shutil.copytree(first, second)
    with caplog.at_level(logging.WARNING):
        train = data_sets(other, seed=1).train
    assert all("reply" in row.positive for row in train)
    assert "belongs to other data" in caplog.text
