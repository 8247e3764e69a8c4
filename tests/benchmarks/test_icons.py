"""Icons of another style become judged images: one per drawing, with the words that are for it."""

import json

import pyarrow
import pytest
from pyarrow import parquet

from trainer.data.retrieval_set import RetrievalSet


@pytest.fixture
def package(tmp_path):
    """Four drawings under five names, as lucide-static has them."""
    (tmp_path / "icons").mkdir()
    drawings = {"cat": "c", "old-cat": "c", "cat-food": "f", "disc": "d", "dog": "g"}
    for name, path in drawings.items():
        (tmp_path / "icons" / f"{name}.svg").write_text(f'<svg class="{name}">{path}</svg>')
    tags = {"cat": ["Pet", "disc"], "cat-food": ["pet"], "disc": ["", "record"], "dog": []}
    (tmp_path / "tags.json").write_text(json.dumps(tags))
    return tmp_path


def test_former_names_and_tags_are_queries_for_the_drawing(benchmark, package, monkeypatch):
    icons = benchmark("measuring.icons")
    assert {name: names for name, (_, names) in icons.read_lucide(package).items()} == {
        "cat": {"cat", "old-cat"},
        "cat-food": {"cat-food"},
        "disc": {"disc"},
        "dog": {"dog"},
    }
    queries, tags = icons.read_queries(package)
    assert queries == {
        "cat": {"cat"},
        "cat food": {"cat-food"},
        "disc": {"disc", "cat"},
        "dog": {"dog"},
        "old cat": {"cat"},
        "pet": {"cat", "cat-food"},
        "record": {"disc"},
    }
    assert tags == {"pet", "record"}
    monkeypatch.setattr(icons, "MOST_ICONS", 1)
    assert "pet" not in icons.read_queries(package)[0]


def test_queries_are_grouped_by_the_captions_of_training(benchmark, tmp_path, monkeypatch):
    styles = benchmark("icon_styles")
    monkeypatch.setattr(styles, "MATERIAL", tmp_path)
    parquet.write_table(pyarrow.table({"caption": ["Cat-Food", "dog"]}), tmp_path / "train.parquet")
    texts = ("cat", "cat food", "old dog", "record", "pet")
    ids = tuple(map(str, range(5)))
    judged_set = RetrievalSet("icons", ids, texts, (), (), {})
    groups = styles.caption_groups(judged_set, tags={"record", "cat"})
    assert {name: rows for name, rows in groups.items() if rows} == {
        "all words": [0, 1, 2, 3, 4],
        "names, known": [1],
        "names, in part": [2],
        "names, new": [4],
        "tags, in part": [0],
        "tags, new": [3],
    }
