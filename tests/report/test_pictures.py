"""Thumbnails in a report: small, encoded anew, and refused if they are anything else."""

import base64
import json
import shutil

import numpy as np
import pytest
from image_toys import drawing, encoded
from PIL import Image

from trainer.errors import BadFolder
from trainer.evaluation.results import Evaluation, SystemResult
from trainer.images.decode import decode
from trainer.images.reference import reference_to_bytes
from trainer.report.pictures import PICTURES, write_pictures
from trainer.report.read import read_run

QUERIES = [f"q{number}" for number in range(30)]


def evaluation(gains):
    """Queries whose first document changes from `b` to one of their own, and that gain so much."""

    def system(name, values, top):
        metrics = {"ndcg@10": np.array(values, float), "mrr@10": np.array(values, float)}
        return SystemResult(name, tuple(QUERIES), metrics, top)

    before = system("base", [0.0] * 30, {query: [("b", 1.0)] for query in QUERIES})
    after = system("tuned", gains, {query: [(f"d-{query}", 1.0)] for query in QUERIES})
    texts = dict.fromkeys(QUERIES, "a query")
    return Evaluation("toy test", "test", 31, (before, after), (), texts, {})


def written(folder, references, gains):
    write_pictures(folder, evaluation(gains), references)
    return json.loads((folder / PICTURES).read_text())


def test_pictures_of_the_largest_changes_are_small(tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (700, 400, 3), np.uint8))
    reference = reference_to_bytes(encoded(noise))
    references = {f"d-{query}": reference for query in QUERIES} | {"b": reference}
    pictures = written(tmp_path, references, np.linspace(0, 1, 30).tolist())
    assert list(pictures) == ["d-q29", "b", *(f"d-q{number}" for number in range(28, 21, -1))]
    for uri in pictures.values():
        assert len(uri) <= 16_000
        assert decode(base64.b64decode(uri.partition(",")[2])).size == (55, 96)


def test_picture_that_cannot_be_decoded_is_left_out(tmp_path):
    references = {
        "b": reference_to_bytes(b"<svg onload=alert(1)>"),
        "d-q1": str(tmp_path / "missing.png"),
        "d-q2": reference_to_bytes(encoded(drawing(1))),
    }
    assert [*written(tmp_path, references, [1.0] * 30)] == ["d-q2"]


@pytest.mark.parametrize(
    "content",
    [
        {"b": 'data:image/webp;base64,AAAA" onerror="alert(1)'},
        {"b": "data:image/svg+xml;base64,AAAA"},
        {"b": "https://example.org/x.webp"},
        {"b": "data:image/webp;base64," + "A" * 20_000},
        {"b": 7},
        {f"d{number}": "data:image/webp;base64,AAAA" for number in range(1000)},
        [],
        "text",
    ],
    ids=lambda content: str(content)[:40],
)
def test_foreign_content_is_refused(toy_run, tmp_path, content):
    shutil.copytree(toy_run, tmp_path / "run", ignore=shutil.ignore_patterns("model", "checkp*"))
    (tmp_path / "run" / PICTURES).write_text(json.dumps(content))
    with pytest.raises(BadFolder, match=r"pictures\.json"):
        read_run(tmp_path / "run")
