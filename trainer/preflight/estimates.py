"""What can be known of a run before it runs: the memory each rank needs, what is written to disk,
how many texts are cut, and a list of findings.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, assert_never

from torch import nn

from trainer.data.rows import Row, Rows
from trainer.errors import NearfarError
from trainer.models.cross_encoder import CrossEncoder
from trainer.models.encoder import Encoder
from trainer.models.tokenizers.texts import role_tokenizer
from trainer.storage.visible import visible
from trainer.strategies.environment import Plan
from trainer.strategies.fully_sharded import transformer_blocks

SAMPLE_ROWS = 1000
BESIDES_WEIGHTS = 100 * 2**20
"""Bytes for tokenizer, log, report and what trackers write."""

Verdict = Literal["ok", "warning", "wrong", "skipped"]


class Findings:
    """Prints every finding when it is made, and counts those that are wrong."""

    def __init__(self) -> None:
        self.wrong = 0

    def add(self, verdict: Verdict, what: str, text: str) -> None:
        """One finding, on one line; a text of several lines goes on below."""
        self.wrong += verdict == "wrong"
        first, *more = text.split("\n")
        for line in (f"{verdict:<8} {what}: {first}", *more):
            print(visible(line), flush=True)

    @contextmanager
    def of(self, what: str) -> Iterator[None]:
        """Inside, an error that a person can act on is a finding, and ends this look alone."""
        try:
            yield
        except NearfarError as error:
            self.add("wrong", what, str(error))


# ---------------------------------------------------------------- lengths


@dataclass(frozen=True)
class Lengths:
    """Of a sample of texts of one role."""

    texts: int
    cut: int
    limit_tokens: int
    mean_tokens: float


def lengths(encoder: Encoder, rows: Rows, negatives_per_query: int) -> tuple[Lengths, Lengths]:
    """How long queries and documents are, in a sample spread evenly over the rows."""
    count = min(SAMPLE_ROWS, len(rows))
    sample = [rows[number * len(rows) // count] for number in range(count)]
    documents = [text for row in sample for text in _documents(row, negatives_per_query)]
    if isinstance(encoder, CrossEncoder):
        queries = [row.query for row in sample for _ in _documents(row, negatives_per_query)]
        return _lengths(encoder, [row.query for row in sample], "query"), _pair_lengths(
            encoder, queries, documents
        )
    return _lengths(encoder, [row.query for row in sample], "query"), _lengths(
        encoder, documents, "document"
    )


def _documents(row: Row, negatives_per_query: int) -> list[str]:
    """The row's own candidates; its positive stands for negatives that are drawn from other
    rows.
    """
    return [
        row.positive,
        *(row.negatives or (row.positive,) * negatives_per_query)[:negatives_per_query],
    ]


def _pair_lengths(
    encoder: CrossEncoder, queries: Sequence[str], documents: Sequence[str]
) -> Lengths:
    """Of (query, document) pairs."""
    limit = encoder.contract.document_max_length_tokens
    found = encoder.pairs_of(limit + 1).tokenize(queries, documents).lengths
    return Lengths(
        len(queries),
        int((found > limit).sum()),
        limit,
        float(found.clamp(max=limit).double().mean()),
    )


def _lengths(encoder: Encoder, texts: Sequence[str], role: Literal["query", "document"]) -> Lengths:
    limit = encoder.contract.max_length_tokens(role)
    one_more = role_tokenizer(encoder.tokenizer, encoder.contract.prompt(role), limit + 1)
    found = one_more.tokenize(texts).lengths
    return Lengths(
        len(texts), int((found > limit).sum()), limit, float(found.clamp(max=limit).double().mean())
    )


# ---------------------------------------------------------------- memory


@dataclass(frozen=True)
class Need:
    """Bytes that one rank needs for something, on its device or in the memory of the machine."""

    part: str
    amount: int
    on_machine: bool = False


def weight_needs(plan: Plan, encoder: nn.Module) -> list[Need]:
    """Weights, gradients and AdamW's two moments of one rank.

    Numbers are float32, but for fp16 under DeepSpeed. ZeRO keeps a copy of its share of the trained
    weights beside the moments; FSDP2 and ZeRO-3 hold, besides their share, what is gathered at
    once.
    """
    everything = sum(parameter.numel() for parameter in encoder.parameters())
    trained = sum(
        parameter.numel() for parameter in encoder.parameters() if parameter.requires_grad
    )
    zero = (plan.deepspeed or {}).get("zero_optimization", {})
    offloaded, weights_offloaded = "offload_optimizer" in zero, "offload_param" in zero
    width = 2 if plan.deepspeed is not None and plan.precision == "fp16" else 4

    def share(weights: int) -> int:
        return -(-weights // plan.ranks)

    match plan.kind:
        case "single" | "ddp":
            return [
                Need("weights", 4 * everything),
                Need("gradients", 4 * trained),
                Need("optimizer state", 8 * trained),
            ]
        case "fsdp2":
            gathered = _gathered(encoder) if plan.reshard_after_forward else everything
            weights = Need("weights", 4 * (share(everything) + gathered))
            return [
                weights,
                Need("gradients", 4 * share(trained)),
                Need("optimizer state", 8 * share(trained)),
            ]
        case "zero1" | "zero2":
            kept = trained if plan.kind == "zero1" else share(trained)
            state = Need("optimizer state", 12 * share(trained), offloaded)
            return [
                Need("weights", width * everything),
                Need("gradients", width * kept, offloaded),
                state,
            ]
        case "zero3":
            gathered = min(everything, int(float(zero.get("stage3_max_live_parameters", 1e9))))
            weights = Need("shared weights", width * share(everything), weights_offloaded)
            rest = [
                Need("gradients", width * share(trained), offloaded),
                Need("optimizer state", 12 * share(trained), offloaded),
            ]
            return [weights, Need("gathered weights", width * gathered), *rest]
        case _:
            assert_never(plan.kind)


def _gathered(encoder: nn.Module) -> int:
    """Weights that FSDP2 holds whole at once: those outside of the blocks, a block, and the next
    one that is on its way.
    """
    sizes = [
        sum(parameter.numel() for parameter in block.parameters())
        for block in transformer_blocks(encoder)
    ]
    outside = sum(parameter.numel() for parameter in encoder.parameters()) - sum(sizes)
    return outside + 2 * max(sizes, default=0)


def largest_first(needs: Sequence[Need]) -> str:
    """The parts in words, the largest named as such."""
    ordered = sorted(needs, key=lambda need: -need.amount)
    words = [
        f"{size(need.amount)} for {need.part}"
        + (" in the machine's memory" if need.on_machine else "")
        for need in ordered
    ]
    return "; ".join([f"{words[0]}, the largest part", *words[1:]])


# ---------------------------------------------------------------- disk


def written_bytes(encoder: nn.Module) -> int:
    """What the run folder will hold: the model whole in float32, the best weights and, while they
    are replaced, the former best, and an adapter.
    """
    everything = sum(parameter.numel() for parameter in encoder.parameters())
    trained = sum(
        parameter.numel() for parameter in encoder.parameters() if parameter.requires_grad
    )
    return 4 * (everything + 3 * trained) + BESIDES_WEIGHTS


def free_bytes(path: Path) -> int:
    """What this user may still write on the disk where `path` is or will be."""
    there = path.absolute()
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free


def size(amount: int) -> str:
    """Bytes for people.

    >>> size(900), size(91_226_112), size(2_500_000_000)
    ('1 MB', '91 MB', '2.5 GB')
    """
    return f"{max(1, round(amount / 1e6)):,} MB" if amount < 1e9 else f"{amount / 1e9:,.1f} GB"
