"""Folders go both ways between nearfar and a real PyLate, with the same vectors, scores and loss to
1e-5.

PyLate needs older libraries than ours, so it runs in an environment of its own, in one process that
serves all tests of this file.
"""

import json
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from late_interaction_toys import (
    DOCUMENT_LENGTH,
    QUERY_LENGTH,
    TEXTS,
    Vectors,
    assert_same_vectors,
    maxsim_scores,
    new_encoder,
    scored_vectors,
    train_one_step,
)
from safetensors.numpy import load_file

from trainer import losses
from trainer.models.formats.folder import save_encoder
from trainer.models.formats.library_examples import FOLDER
from trainer.models.late_interaction import LateInteractionEncoder, read_late_encoder
from trainer.scores import maxsim

REPOSITORY = Path(__file__).parents[2]
PYTHON = REPOSITORY / ".venv-pylate" / "bin" / "python"
pytestmark = pytest.mark.skipif(
    not (PYTHON.parents[1] / ".made").is_file(), reason="PyLate is not installed: make setup-pylate"
)

ENCODERS = ("roberta", "xlm-roberta", "mpnet", "modernbert", "distilbert")
DECODERS = ("qwen3", "llama")
LOCAL = ("modernbert",)
"""The toy of this family attends to four tokens on each side."""
HOW = {
    "as it comes": {},
    "expansion attended": {"attend_to_expansion": True},
    "no expansion": {"query_expansion": False},
    "punctuation scored": {"skip_punctuation": False},
    "no markers": {"query_marker": "", "document_marker": ""},
    "other markers": {"query_marker": "[unused1]", "document_marker": "[MASK]"},
}
"""What of `recipe.LateInteraction` differs."""
THEIRS = {
    "as it comes": {},
    "expansion attended": {"attend_to_expansion_tokens": True},
    "no expansion": {"do_query_expansion": False},
    "punctuation scored": {"skiplist_words": []},
    "words skipped": {"skiplist_words": ["disk", ".", "delete"]},
    "no markers": {"query_prefix": "", "document_prefix": ""},
    "other markers": {"query_prefix": "[unused0]", "document_prefix": "[D]"},
    "other lengths": {"query_length": 9, "document_length": 14},
    "with a bias": {"bias": True},
}
"""Arguments of `pylate.models.ColBERT`."""

Ask = Callable[..., dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def pylate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """Sends a job to `pylate_child.py` and gives what it found."""
    out = tmp_path_factory.mktemp("pylate") / "found.safetensors"
    words = out.with_suffix(".log").open("w+")
    child = subprocess.Popen(
        [PYTHON, Path(__file__).with_name("pylate_child.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=words,
        text=True,
        bufsize=1,
    )

    def ask(model: Path, **job: Any) -> dict[str, np.ndarray]:
        out.unlink(missing_ok=True)
        print(
            json.dumps({"model": str(model), "out": str(out), **job}), file=child.stdin, flush=True
        )
        answer = child.stdout.readline().strip()
        if answer != "done":
            raise AssertionError(f"PyLate: {answer or words.seek(0) or words.read()[-2000:]}")
        return load_file(out) if out.exists() else {}

    yield ask
    child.stdin.close()
    child.wait(timeout=60)
    words.close()


def of(found: dict[str, np.ndarray], role: str) -> Vectors:
    return [found[f"{role}.{index}"] for index in range(len(found["scores"]))]


def assert_same(
    encoder: LateInteractionEncoder, found: dict[str, np.ndarray], texts: Sequence[str] = TEXTS
) -> None:
    for role in ("query", "document"):
        assert_same_vectors(scored_vectors(encoder, texts, role), of(found, role))
    np.testing.assert_allclose(
        maxsim_scores(encoder, texts, texts), found["scores"], atol=1e-4, rtol=1e-5
    )


def test_example_of_the_model_card_runs(pylate, marked_bert, tmp_path):
    encoder = new_encoder(marked_bert)
    save_encoder(encoder, tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text().replace(FOLDER, str(tmp_path / "model"))
    (code,) = re.findall(r"```python\n(from pylate.*?)```", card, re.DOTALL)
    found = pylate(tmp_path / "model", code=code)
    assert_same_vectors(scored_vectors(encoder, ["a question"], "query"), [found["queries"]])


@pytest.mark.parametrize("how", HOW)
def test_pylate_reads_our_folders(pylate, marked_bert, tmp_path, how):
    encoder = train_one_step(new_encoder(marked_bert, **HOW[how]))
    save_encoder(encoder, tmp_path / "model")
    found = pylate(tmp_path / "model", texts=TEXTS)
    assert_same(encoder, found)
    assert {len(one) for one in of(found, "query")} == (
        {QUERY_LENGTH} if how != "no expansion" else {len(one) for one in of(found, "query")}
    )
    assert max(map(len, of(found, "document"))) <= DOCUMENT_LENGTH


@pytest.mark.parametrize("family", [*ENCODERS, *DECODERS])
def test_pylate_reads_every_backbone_family_that_we_write(pylate, toy_folder, tmp_path, family):
    attend = family in LOCAL
    encoder = train_one_step(
        new_encoder(
            toy_folder(family),
            lora=None,
            attend_to_expansion=attend,
            query_prompt="find ",
            document_prompt="",
        )
    )
    save_encoder(encoder, tmp_path / "model")
    # Theirs strips the space behind a prompt that stands alone, and cannot score a document without
    # any token: "?!" where there are no special ones.
    texts = [text for text in TEXTS if text and (family not in DECODERS or text != "?!")]
    assert_same(
        encoder,
        pylate(tmp_path / "model", texts=texts, query_prompt="query", document_prompt="document"),
        texts,
    )


@pytest.mark.parametrize("family", ["roberta", "modernbert"])
def test_byte_level_vocabulary_with_markers_gives_the_same_vectors(
    pylate, toy_folder, tmp_path, family
):
    settings = {
        "embedding_size": 16,
        "query_length": 20,
        "document_length": 40,
        "attend_to_expansion_tokens": family in LOCAL,
    }
    found = pylate(
        toy_folder(family), save=str(tmp_path / "theirs"), texts=TEXTS, settings=settings
    )
    encoder = read_late_encoder(str(tmp_path / "theirs"))
    assert encoder.contract.query_marker == "[Q] "
    assert_same(encoder, found)
    save_encoder(encoder, tmp_path / "ours")
    assert_same(encoder, pylate(tmp_path / "ours", texts=TEXTS))


def test_mask_tokens_outside_a_sliding_window_give_the_same_vectors(pylate, toy_folder, tmp_path):
    encoder = new_encoder(toy_folder("modernbert"), lora=None, query_prompt="", document_prompt="")
    save_encoder(encoder, tmp_path / "model")
    assert_same(encoder, pylate(tmp_path / "model", texts=TEXTS))


@pytest.mark.parametrize("how", THEIRS)
def test_we_read_folders_of_pylate(pylate, marked_bert, tmp_path, how):
    settings = {
        "embedding_size": 16,
        "query_length": QUERY_LENGTH,
        "document_length": DOCUMENT_LENGTH,
        **THEIRS[how],
    }
    found = pylate(marked_bert, save=str(tmp_path / "theirs"), texts=TEXTS, settings=settings)
    encoder = read_late_encoder(str(tmp_path / "theirs"))
    assert_same(encoder, found)
    save_encoder(encoder, tmp_path / "ours")
    assert_same(encoder, pylate(tmp_path / "ours", texts=TEXTS))


def test_planted_difference_is_caught(pylate, marked_bert, tmp_path):
    """Each setting changes vectors or their number, so that the tests above would fail if a reader
    left it out.
    """
    settings = {
        "embedding_size": 16,
        "query_length": QUERY_LENGTH,
        "document_length": DOCUMENT_LENGTH,
    }
    plain = pylate(marked_bert, texts=TEXTS, settings=settings)
    for how, change in THEIRS.items():
        found = pylate(marked_bert, texts=TEXTS, settings=settings | change)
        equal = all(
            plain[name].shape == found[name].shape
            and np.abs(plain[name] - found[name]).max() < 1e-3
            for name in plain
        )
        assert equal == (how == "as it comes"), how


def test_stanford_checkpoints_are_read_as_pylate_reads_them(pylate, stanford_folder):
    assert_same(read_late_encoder(str(stanford_folder)), pylate(stanford_folder, texts=TEXTS))


@pytest.mark.parametrize("temperature", [1.0, 0.05])
def test_loss_and_gradient_equal_those_of_pylate(pylate, marked_bert, tmp_path, temperature):
    encoder = new_encoder(marked_bert, lora=None)
    save_encoder(encoder, tmp_path / "model")
    pairs = list(zip(TEXTS[:4], reversed(TEXTS[:4]), strict=True))
    found = pylate(tmp_path / "model", pairs=pairs, temperature=temperature)
    queries, documents = (
        encoder.eval()(encoder.tokenize(texts, role))
        for texts, role in zip(zip(*pairs, strict=True), ("query", "document"), strict=True)
    )
    scores = maxsim(queries, documents) / temperature
    loss = losses.info_nce(scores.diagonal(), scores.logsumexp(1))
    loss.backward()
    torch.testing.assert_close(loss.detach(), torch.from_numpy(found["loss"]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        encoder.projection.weight.grad, torch.from_numpy(found["projection"]), atol=1e-4, rtol=1e-4
    )
    assert float(encoder.projection.weight.grad.norm()) > 1e-2
