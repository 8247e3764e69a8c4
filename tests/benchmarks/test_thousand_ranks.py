"""How a step grows with the number of ranks, counted on one rank of a fake process group.

A step sends queries and never documents, its collectives are as many on any number of ranks, and
its memory grows with what is gathered. docs/scaling.md calculates with the same formulas.
"""

import multiprocessing
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel, Qwen3Config, Qwen3Model

FORK = multiprocessing.get_context("fork")
RANKS, BATCH = (8, 64, 1024), 2048
NUMBER, NAME = 4, 8
"""Bytes of a float32, and of the identity of a text."""


@pytest.fixture
def thousand_ranks(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("thousand_ranks")


_STEPS: dict[str, dict[str, Any]] = {}
"""What is counted for each case, once for all tests."""


@pytest.fixture
def step(thousand_ranks: ModuleType) -> Callable[..., dict[str, Any]]:
    """What a rank does in a step, by the arguments of a case."""

    def found(*arguments: Any, **more: Any) -> dict[str, Any]:
        case = thousand_ranks.Case(*arguments, **more)
        if repr(case) not in _STEPS:
            _STEPS[repr(case)] = _in_a_fork(thousand_ranks.rank_step, case)
        return _STEPS[repr(case)]

    return found


def _in_a_fork(measure: Callable[[Any], dict[str, Any]], case: Any) -> dict[str, Any]:
    """The process group of a step is one per process."""
    answers = FORK.SimpleQueue()
    process = FORK.Process(target=lambda: answers.put(measure(case)), daemon=True)
    process.start()
    process.join(120)
    assert process.exitcode == 0
    return answers.get()


def calls(found: dict[str, Any]) -> dict[tuple[str, bool], int]:
    """The number of collectives by kind, agreements apart."""
    return {(kind["name"], kind["is_control"]): kind["calls"] for kind in found["collectives"]}


def size(found: dict[str, Any], *names: str) -> int:
    """The bytes of collectives of some kinds."""
    return sum(
        kind["bytes"]
        for kind in found["collectives"]
        if kind["name"] in names and not kind["is_control"]
    )


def test_collectives_are_as_many_on_any_number_of_ranks(step):
    by_ranks = [calls(step("dot", "ddp", count, 2)) for count in RANKS]
    assert by_ranks[0] == by_ranks[1] == by_ranks[2]
    assert {
        name: number for (name, is_control), number in by_ranks[0].items() if not is_control
    } == {
        "gather": 3,  # queries, scores of positives, names
        "scatter": 2,  # the gradients of queries and of positives
        "sum": 5,  # logarithms: largest, sum, gradient; log; the gradient of the weights
    }


@pytest.mark.parametrize("queries_of", [lambda _: 2, lambda count: BATCH // count])
def test_bytes_are_those_of_queries_and_of_the_gradient(step, queries_of):
    """With a fixed batch they are the same on any number of ranks, and else grow like it."""
    for count in RANKS:
        found = step("dot", "ddp", count, queries_of(count))
        batch = count * queries_of(count)
        vectors = NUMBER * batch * found["dimensions"]
        assert size(found, "gather") == vectors + batch * (NUMBER + 2 * NAME)
        assert size(found, "scatter") == vectors + batch * NUMBER
        assert size(found, "sum") == NUMBER * (found["weights"] + 3 * batch) + 16
        assert size(found, "broadcast", "barrier") == 0


def test_documents_are_not_sent(step):
    few, many = (step("dot", "ddp", 64, 2, negatives=negatives) for negatives in (0, 7))
    assert size(few, "gather", "scatter", "sum") == size(many, "gather", "scatter", "sum")
    assert few["step_bytes"] < many["step_bytes"]


def test_token_vectors_of_queries_are_sent(step):
    """As many vectors as the longest query has tokens."""
    found = step("maxsim", "ddp", 64, 2)
    dense = step("dot", "ddp", 64, 2)
    names = 64 * 2 * (NUMBER + 2 * NAME)
    vectors, remainder = divmod(
        size(found, "gather") - names, NUMBER * 64 * 2 * found["dimensions"]
    )
    assert (remainder, vectors) == (0, pytest.approx(10, abs=5))
    assert (
        size(found, "sum") - NUMBER * found["weights"]
        == size(dense, "sum") - NUMBER * dense["weights"]
    )


def test_memory_grows_with_the_gathered_queries_alone(step):
    """With a fixed batch it shrinks until those remain; with a fixed batch per rank they are what
    grows: the queries, their gradient, and a few numbers per query.
    """
    fixed = [step("dot", "ddp", count, BATCH // count)["step_bytes"] for count in RANKS]
    assert fixed[0] > 2 * fixed[1] > 2 * fixed[2]
    few, many = (step("dot", "ddp", count, 2) for count in (64, 1024))
    queries = 2 * (1024 - 64)
    growth = (many["step_bytes"] - few["step_bytes"]) / queries
    vector = NUMBER * few["dimensions"]
    assert 2 * vector < growth < 6 * vector


def within_and_across(found: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The collectives among the ranks of a node, and among those of all nodes, by name."""
    kinds = [kind for kind in found["collectives"] if not kind["is_control"]]
    return tuple(  # type: ignore[return-value]
        {kind["name"]: (kind["calls"], kind["bytes"]) for kind in kinds if kind["group"] == group}
        for group in (8, found["ranks"] // 8)
    )


def test_weights_are_gathered_within_a_node(step):
    """A copy of the weights per node: what a rank stores and gathers does not depend on the nodes,
    and only its share of the gradient is added over them.
    """
    few, many = (step("dot", "hsdp", count, 2) for count in (128, 1024))
    within, across = within_and_across(few)
    assert (within, across) == within_and_across(many)
    assert within.keys() == {"gather", "scatter"}
    calls, size = within["scatter"]
    assert across == {"sum": (calls, size / 8)}
    assert few["state_bytes"] == many["state_bytes"] < 16 * few["weights"] / 7


def test_weights_are_gathered_per_micro_batch_and_gradients_are_sent_once(step):
    """Twice for each layer and micro-batch: forward, and backward with the recomputation."""
    gathers = []
    for tokens in (None, 128, 32):
        within, across = within_and_across(step("dot", "hsdp", 128, 16, 1, tokens))
        assert within["scatter"][0] == across["sum"][0] == 3  # two layers, and the rest
        gathers.append(within["gather"][0])
    assert [(number - 1) % (2 * 2) for number in gathers] == [0, 0, 0]
    assert gathers[0] == 1 + 2 * 2 * 2, "one micro-batch for queries, one for documents"
    assert gathers[0] < gathers[1] < gathers[2]


def test_flat_sharding_pads_rows_to_the_number_of_ranks(step):
    """A weight with fewer rows than ranks is gathered as if it had a row on each."""
    few, many = (size(step("dot", "fsdp2", count, 2), "gather") for count in (64, 1024))
    weights = step("dot", "fsdp2", 64, 2)["weights"]
    assert many - few > 10 * NUMBER * weights


def test_formulas_of_the_page_give_what_is_counted(step, benchmark):
    found = step("dot", "ddp", 64, 2)
    weights, blocks = found["weights"], found["block_weights"]
    scaling = benchmark("scaling")
    model = scaling.Model("toy", weights, blocks, 2, 32, found["dimensions"], 2, 10, 10)
    assert size(found, "gather") == model.gathered(64)
    assert size(found, "scatter") == model.scattered(64)
    assert size(found, "sum") == model.summed(64) + NUMBER * weights
    expected = scaling.loss_bytes(model, 64) + scaling.gradient_bytes(model, 64)
    assert found["sent_bytes"] == pytest.approx(expected)

    hybrid = step("dot", "hsdp", 1024, 2)
    within, between = scaling.hybrid_bytes(model, 1024)
    assert model.micro_batches == 2
    expected = scaling.loss_bytes(model, 1024) + within + between
    assert hybrid["sent_bytes"] == pytest.approx(expected, rel=0.01), "apart from padded rows"


def test_page_shows_the_calculated_tables(benchmark, repository):
    page = (repository / "docs" / "scaling.md").read_text(encoding="utf-8")
    lines = {tuple(line.strip("| ").split(" | ")) for line in page.splitlines()}
    scaling = benchmark("scaling")
    for model in scaling.MODELS:
        for ranks in scaling.RANKS:
            assert tuple(scaling.sizes(model, ranks)) in lines
            assert tuple(scaling.times(model, ranks)) in lines


def architectures() -> dict[str, Any]:
    """The transformers of the named models, without memory for their weights."""
    qwen = Qwen3Config(
        vocab_size=151_936,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
    )
    with torch.device("meta"):
        bert = BertModel(BertConfig(), add_pooling_layer=False)
        return {"BERT": bert, "Qwen3": Qwen3Model(qwen), "ColBERT": bert}


def test_weights_of_named_models_are_those_of_their_architecture(benchmark):
    for model in benchmark("scaling").MODELS:
        module = architectures()[model.name.split("-")[0].split(",")[0]]
        layers = module.layers if hasattr(module, "layers") else module.encoder
        projection = 768 * model.dimensions if model.compares_tokens else 0
        assert model.weights == sum(each.numel() for each in module.parameters()) + projection
        assert model.block_weights == sum(each.numel() for each in layers.parameters())
