"""R36: data that change while they are parsed are refused, and no rows of them are stored."""

import json
from pathlib import Path

import pytest

from trainer.build.data import data_sets
from trainer.data.cache import read as cached_reading
from trainer.errors import BadData
from trainer.recipe.schema.data import DataSection


@pytest.mark.parametrize("folder", ["cache", "off"])
def test_r36_file_that_grows_while_it_is_parsed_is_refused(folder, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    monkeypatch.setenv("NEARFAR_CACHE", str(cache) if folder == "cache" else folder)
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"query": "first", "positive": "row"}) + "\n")
    write_rows = cached_reading.write_rows

    def write_while_the_file_grows(place: Path, *arguments, **options):
        with path.open("a") as file:
            file.write(json.dumps({"query": "later", "positive": "row"}) + "\n")
        return write_rows(place, *arguments, **options)

    monkeypatch.setattr(cached_reading, "write_rows", write_while_the_file_grows)
    with pytest.raises(BadData, match="was changed while it was read"):
        data_sets(DataSection(train=str(path)), seed=1)
    assert not list(cache.rglob("*.arrow"))
