"""R38: a teacher's cache or mined negatives of which one byte was altered are refused by name and
digest, and never trained on; so are numbers that are not finite.
"""

import json

import forked
import numpy as np
import pytest
import torch

from trainer.data.rows import Row
from trainer.errors import BadData, BadFolder, BadModel
from trainer.models.dense import read_encoder
from trainer.retrieval.encoding.taught_files import FILE, write_content
from trainer.retrieval.encoding.taught_vectors import taught_vectors

ROWS = [Row(f"disk {number}", f"size {number}") for number in range(20)]


@pytest.fixture
def teacher(toy_folder):
    return read_encoder(str(toy_folder("bert")))


@pytest.fixture
def cache(teacher, tmp_path):
    taught_vectors(tmp_path / "teacher", teacher, ROWS, 0)
    return tmp_path / "teacher"


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "name", ["query-names.npy", "query-vectors.npy", "document-names.npy", "document-vectors.npy"]
)
@pytest.mark.parametrize("place", [0, 200, -1])
def test_r38_altered_byte_of_a_teachers_cache_is_refused(teacher, cache, name, place):
    flip(cache / name, place)
    with pytest.raises(BadFolder, match=rf"{name} was altered: its SHA-256") as refused:
        taught_vectors(cache, teacher, ROWS, 0)
    assert "remove" in str(refused.value)
    flip(cache / name, place)
    taught_vectors(cache, teacher, ROWS, 0)


def test_r38_zeroed_bytes_are_refused_also_with_new_texts_to_encode(teacher, cache):
    path = cache / "document-vectors.npy"
    path.write_bytes(path.read_bytes()[:-1_500] + bytes(1_500))
    with pytest.raises(BadFolder, match=r"document-vectors\.npy was altered"):
        taught_vectors(cache, teacher, [*ROWS, Row("new", "text")], 0)


def test_r38_truncated_or_missing_file_is_refused(teacher, cache):
    path = cache / "query-vectors.npy"
    content = path.read_bytes()
    path.write_bytes(content[:-10])
    with pytest.raises(BadFolder, match=rf"has {len(content) - 10:,} bytes instead of"):
        taught_vectors(cache, teacher, ROWS, 0)
    path.unlink()
    with pytest.raises(BadFolder, match=r"query-vectors\.npy is missing"):
        taught_vectors(cache, teacher, ROWS, 0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_r38_number_that_is_not_finite_is_refused_in_a_batch(teacher, cache, value):
    """With a correct digest, as if the teacher had given it."""
    vectors = np.load(cache / "document-vectors.npy")
    vectors[3, 2] = value
    np.save(cache / "document-vectors.npy", vectors)
    content = json.loads((cache / FILE).read_text())
    del content["files"]
    (cache / FILE).unlink()
    write_content(cache, content)
    taught = taught_vectors(cache, teacher, ROWS, 0)
    texts = teacher.tokenize([row.positive for row in ROWS], "document")
    with pytest.raises(BadData, match="vectors of the teacher are not finite"):
        taught._embeddings(texts, "document")


def test_r38_teacher_that_gives_nan_is_refused(teacher, tmp_path, monkeypatch):
    with torch.no_grad():
        teacher.backbone.get_input_embeddings().weight[teacher.tokenizer.sep_token_id] = torch.nan
    with pytest.raises(BadModel, match="infinite or undefined numbers"):
        taught_vectors(tmp_path / "teacher", teacher, ROWS, 0)
    assert not (tmp_path / "teacher").exists()


def test_r38_altered_negatives_are_not_trained_on(toy_folder, tmp_path, repository):
    rows = [{"query": f"disk {number}", "positive": f"size {number}"} for number in range(40)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = ["-o", tmp_path / "mined", "--negatives", "1", "--percent-of-positive", "0"]
    mined = forked.nearfar("mine", toy_folder("bert"), tmp_path / "pairs.jsonl", *options)
    assert mined.returncode == 0, mined.stderr
    path = tmp_path / "mined" / "train.jsonl"
    text = path.read_text()

    def fit():
        settings = {
            "model.backbone": toy_folder("bert"),
            "data.train": path,
            "data.negatives_per_query": 1,
            "output": tmp_path,
            "optimization.batch_size": 8,
            "optimization.warmup_steps": 0,
            "machine.accelerator": "cpu",
            "machine.threads": 1,
        }
        words = [f"{key}={value}" for key, value in settings.items()]
        return forked.nearfar("fit", "recipes/bi-encoder-lora.yaml", *words, folder=repository)

    path.write_text(text.replace("disk 7", "disk 8", 1))
    ended = fit()
    assert ended.returncode == 2, ended.stderr
    assert f"{path} was altered: its SHA-256 is not the recorded one" in ended.stderr
    assert "report.json" in ended.stderr
    path.write_text(text.replace('"scores": [', '"scores": [NaN, ', 1))
    (tmp_path / "mined" / "report.json").unlink()
    ended = fit()
    assert ended.returncode == 87, ended.stderr
    assert "train.jsonl:1: not JSON (NaN is not JSON)" in ended.stderr
    path.write_text(text)
    assert fit().returncode == 0


def test_r38_every_array_of_the_cache_has_a_digest(cache):
    files = json.loads((cache / FILE).read_text())["files"]
    assert set(files) == {path.name for path in cache.iterdir()} - {FILE}
