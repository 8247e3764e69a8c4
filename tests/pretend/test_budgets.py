"""How often the CPU waits for the device and copies to it: budgets per micro-batch and per step.

On a GPU each wait empties the queue of kernels, and each upload of pageable memory waits too. A
count above `budgets.json` fails, and the message lists the lines of the package. When the counts
have become lower, run `python tests/pretend/test_budgets.py`, which lowers the budgets and never
raises one.
"""

import json
import math
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[number]) for number in (1, 2)]

import pytest
import torch
from late_interaction_toys import new_encoder
from matrix import batch_of
from pretend_device import DEVICE, UPLOADS, WAITS, on_pretend_device, reset_counts
from pretend_trainer import fit
from toy_models import SENTENCES, make_toy

from trainer.data.retrieval_set import RetrievalSet
from trainer.microbatches import MicroBatching
from trainer.models.cross_encoder import CrossEncoderSettings, build_cross_encoder
from trainer.models.dense import DenseSettings, build_dense_encoder
from trainer.models.static_student import StaticSettings, build_static_encoder
from trainer.modules.optimizer import OptimizerSettings
from trainer.modules.retriever import Retriever, Temperature
from trainer.objectives.contrastive import Contrastive
from trainer.objectives.ranking import Ranking
from trainer.objectives.ranking_losses import softmax_cross_entropy
from trainer.retrieval.encoding.encode import encode
from trainer.scores import dot, maxsim

BUDGETS = Path(__file__).with_name("budgets.json")
NO_VALIDATION = RetrievalSet("none", (), (), (), (), {})
STEPS = 2
Counts = tuple[int, dict[str, Counter[str]]]
"""The number of micro-batches, and waits and uploads by place."""


def cross_encoder(folder: Path) -> Any:
    return build_cross_encoder(CrossEncoderSettings(backbone=str(folder / "bert")))


def dense(folder: Path) -> Any:
    return build_dense_encoder(DenseSettings(backbone=str(folder / "bert")))


def late(folder: Path) -> Any:
    return new_encoder(folder / "bert")


def static(folder: Path) -> Any:
    return build_static_encoder(StaticSettings(backbone=str(folder / "bert"), dimensions=12))


def counts_of_a_step(build: Any, objective: Any, folder: Path, tokens: int) -> Counts:
    """Of the last of a few training steps, in which no micro-batch is recomputed."""
    encoder = build(folder)
    passes = count_passes(encoder)
    module = Retriever(
        encoder,
        MicroBatching(encoder, tokens, pack=encoder.pack),
        objective,
        Temperature(0.1, is_learned=True),
        OptimizerSettings(1e-3, 1e-3, 1e-3, 0.05, "linear", warmup_steps=1, total_steps=6),
        lambda _: {},
    )
    results: list[Counts] = []

    def record() -> None:
        results.append((passes.pop(0), {"waits": WAITS.copy(), "uploads": UPLOADS.copy()}))
        passes.append(0)
        reset_counts()

    batch = module.micro_batching.prepare(batch_of(encoder))  # as on the thread that tokenizes
    fit(module, [batch] * STEPS, NO_VALIDATION, DEVICE, record)
    return results[-1]


def counts_of_encoding(build: Any, folder: Path, tokens: int) -> Counts:
    """Of one call of `encode`."""
    encoder = build(folder).to(DEVICE)
    passes = count_passes(encoder)
    texts = [f"{text} {number}" for text in SENTENCES for number in range(6)]
    reset_counts()
    encode(encoder, texts, "document", tokens)
    return passes[0], {"waits": WAITS.copy(), "uploads": UPLOADS.copy()}


def count_passes(encoder: torch.nn.Module) -> list[int]:
    """A list whose only number grows with every pass through the encoder."""
    passes = [0]

    def count(*_: Any) -> None:
        passes[0] += 1

    encoder.register_forward_hook(count)
    return passes


CASES: dict[str, tuple[Callable[..., Counts], tuple[Any, ...], str]] = {
    "training, dense": (counts_of_a_step, (dense, Contrastive(dot)), "step"),
    "training, late interaction": (counts_of_a_step, (late, Contrastive(maxsim)), "step"),
    "training, cross-encoder": (
        counts_of_a_step,
        (cross_encoder, Ranking(softmax_cross_entropy)),
        "step",
    ),
    "training, static": (counts_of_a_step, (static, Contrastive(dot)), "step"),
    "encoding, dense": (counts_of_encoding, (dense,), "call"),
    "encoding, late interaction": (counts_of_encoding, (late,), "call"),
}


def write_models(folder: Path) -> Path:
    make_toy("bert", folder / "bert")
    return folder


def measure(name: str, folder: Path) -> tuple[dict[str, int], str]:
    """The counts per micro-batch and per step, and the lines that cause them.

    A line that is passed only in some micro-batches, such as those with padding, counts in all.
    """
    function, arguments, whole = CASES[name]
    (few, few_counts), (many, many_counts) = (
        on_pretend_device(function, *arguments, folder, tokens) for tokens in (300, 100)
    )
    assert 1 < few < many
    numbers, lines = {}, [f"{name}, with {many} micro-batches:"]
    for kind, counter in many_counts.items():
        slopes = {
            place: max(0, math.ceil((count - few_counts[kind][place]) / (many - few)))
            for place, count in counter.items()
        }
        numbers[f"{kind} per micro-batch"] = sum(slopes.values())
        numbers[f"{kind} per {whole}"] = sum(
            max(0, count - slopes[place] * many) for place, count in counter.items()
        )
        lines += [f"  {count} {kind} at {place}" for place, count in counter.most_common()]
    return numbers, "\n".join(lines)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("budgets"))


@pytest.mark.parametrize("name", CASES)
def test_waits_and_uploads_stay_within_their_budget(models, name):
    budget = json.loads(BUDGETS.read_text(encoding="utf-8"))[name]
    numbers, lines = measure(name, models)
    exceeding = {
        kind: f"{number} of at most {budget[kind]}"
        for kind, number in numbers.items()
        if number > budget[kind]
    }
    assert not exceeding, f"{exceeding}\n{lines}"


def test_additional_wait_exceeds_the_budget(models, monkeypatch):
    name = "training, static"
    forward = torch.nn.EmbeddingBag.forward

    def forward_with_wait(self, *inputs):
        vectors = forward(self, *inputs)
        vectors.sum().item()
        return vectors

    budget = json.loads(BUDGETS.read_text(encoding="utf-8"))[name]
    monkeypatch.setattr(torch.nn.EmbeddingBag, "forward", forward_with_wait)
    numbers, lines = measure(name, models)
    assert numbers["waits per micro-batch"] == budget["waits per micro-batch"] + 1
    assert "waits at trainer/models/static.py:" in lines


def lowered(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The lower number of each; a case without a budget gets its own."""
    return {
        name: {
            kind: min(number, old.get(name, {}).get(kind, number))
            for kind, number in counts.items()
        }
        for name, counts in new.items()
    }


def test_budgets_are_lowered_but_never_raised():
    assert lowered({"a": {"w": 2, "u": 2}}, {"a": {"w": 1, "u": 3}, "b": {"w": 4}}) == {
        "a": {"w": 1, "u": 2},
        "b": {"w": 4},
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary_folder:
        folder = write_models(Path(temporary_folder))
        measured = {name: measure(name, folder) for name in CASES}
    old = json.loads(BUDGETS.read_text(encoding="utf-8")) if BUDGETS.exists() else {}
    new = lowered(old, {name: numbers for name, (numbers, _) in measured.items()})
    BUDGETS.write_text(json.dumps(new, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    for _, lines in measured.values():
        print(lines)
