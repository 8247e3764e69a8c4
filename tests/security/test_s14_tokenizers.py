"""S14: a tokenizer whose regular expression takes forever, or that panics, ends with a named error
and 2. In training, a row at which it fails is set aside, within the budget of bad rows.
"""

import json
import shutil
import time

import forked
import pytest

from trainer.errors import BadModel
from trainer.models.dense import DenseSettings, build_dense_encoder

POISON = "zz" + "a" * 40 + "!"
FAILS_AT_POISON = r"zz(a+)+$"
"""The texts of the trial have no two z before their a."""
KNOWN_GOOD = {
    "gpt-2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "llama-3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "o200k": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+",
    "xlm-roberta": " {2,}",
    "letters with marks": r" ?(?:\p{L}\p{M}*)+",
}


@pytest.fixture
def model(toy_folder, tmp_path):
    """A function that returns a model folder whose tokenizer splits at a regular expression."""

    def folder(pattern, part="pre_tokenizer"):
        path = tmp_path / "model"
        shutil.copytree(toy_folder("bert"), path)
        content = json.loads((path / "tokenizer.json").read_text())
        split = {"pattern": {"Regex": pattern}}
        if part == "pre_tokenizer":
            split |= {"type": "Split", "behavior": "Isolated", "invert": False}
            content[part] = {"type": "Sequence", "pretokenizers": [split, content[part]]}
        else:
            split |= {"type": "Replace", "content": ""}
            content[part] = {"type": "Sequence", "normalizers": [content[part], split]}
        (path / "tokenizer.json").write_text(json.dumps(content))
        return path

    return folder


@pytest.mark.parametrize("part", ["pre_tokenizer", "normalizer"])
@pytest.mark.parametrize("pattern", ["(a+)+$", r"(\w+\s?)*\d$", "a*a*a*b", "("])
def test_s14_expression_that_takes_forever_is_refused(model, pattern, part):
    start = time.perf_counter()
    with pytest.raises(BadModel, match=r"tokenizer\.json"):
        build_dense_encoder(DenseSettings(backbone=str(model(pattern, part))))
    assert time.perf_counter() - start < 20


@pytest.mark.parametrize("name", KNOWN_GOOD)
def test_s14_expressions_of_good_tokenizers_are_accepted(model, name):
    encoder = build_dense_encoder(DenseSettings(backbone=str(model(KNOWN_GOOD[name]))))
    assert len(encoder.tokenize(["a text"], "query")) == 1


def fit(model, folder, repository, bad_rows):
    rows = [{"query": f"disk {number}", "positive": f"size {number}"} for number in range(300)]
    for number in range(bad_rows):
        rows[7 * number]["positive"] = f"{POISON[:2]}{'a' * (40 + number)}!"
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "validation.jsonl").write_text("\n".join(map(json.dumps, rows[290:])))
    settings = {
        "model.backbone": model(FAILS_AT_POISON),
        "data.train": folder / "train.jsonl",
        "data.validation": folder / "validation.jsonl",
        "data.max_bad_rows_ratio": 0.01,
        "output": folder,
        "name": "run",
        "optimization.batch_size": 30,
        "optimization.epochs": 2,
        "optimization.warmup_steps": 0,
        "machine.accelerator": "cpu",
        "machine.threads": 1,
    }
    words = [f"{key}={value}" for key, value in settings.items()]
    return forked.nearfar("fit", "recipes/bi-encoder-lora.yaml", *words, folder=repository)


def test_s14_row_at_which_the_tokenizer_fails_is_set_aside(model, tmp_path, repository):
    ended = fit(model, tmp_path, repository, bad_rows=3)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("set aside") == 3
    for line in (1, 8, 15):
        assert f"train.jsonl:{line}: set aside: the tokenizer fails at the text" in ended.stderr
    records = map(json.loads, (tmp_path / "run" / "log.jsonl").read_text().splitlines())
    assert sum("train/loss" in record for record in records) == 20


def test_s14_rows_beyond_the_budget_end_the_run_with_87(model, tmp_path, repository):
    ended = fit(model, tmp_path, repository, bad_rows=4)
    assert ended.returncode == 87, ended.stderr
    assert "4 of 300 rows could not be used" in ended.stderr
    assert not (tmp_path / "run" / "model").exists()


def test_s14_text_at_which_the_tokenizer_fails_is_named_elsewhere(model, tmp_path, repository):
    ended = forked.nearfar(
        *("encode", model(FAILS_AT_POISON), "--out", tmp_path / "vectors.npy"),
        stdin=f"a text\n{POISON}\n",
        folder=repository,
    )
    assert ended.returncode == 2, ended.stderr
    assert f"error: the tokenizer fails at the text '{POISON}'" in ended.stderr
    assert "Traceback" not in ended.stderr
