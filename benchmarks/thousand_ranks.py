"""What one rank of 8, 64 and 1 024 sends, stores and computes in a training step.

This process is one rank of PyTorch's fake process group, in which a collective returns at once and
other ranks' values are copies of its own. So losses mean nothing. The calls, the bytes, the memory
and the time are those of the rank: the step runs through Lightning, with the real objective,
micro-batches and strategy, on a toy BERT. Formulas for real models are in docs/scaling.md.

Bytes are those that the rank sends when a collective goes around a ring. State is its part of
weights, gradients and AdamW's moments. Step is the peak of all other tensors. Agreements are calls
of a few numbers in main memory, which a GPU does not see.
"""

import argparse
import os
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from measuring.children import child, from_tests, run
from measuring.clocks import Clock
from measuring.ledger import Ledger
from measuring.record import save, table
from torch import distributed
from torch.testing._internal.distributed.fake_pg import FakeStore

from trainer.batch import Batch, Texts
from trainer.collectives import Control, ranks
from trainer.microbatches import MicroBatching
from trainer.modules.optimizer import OptimizerSettings
from trainer.modules.retriever import Retriever, Temperature
from trainer.objectives.contrastive import Contrastive
from trainer.scores import dot, maxsim
from trainer.strategies.fully_sharded import transformer_blocks
from trainer.strategies.lightning import (
    leave_signals_alone,
    lightning_precision,
    lightning_strategy,
)
from trainer.strategies.machine.plan import Plan

RANKS_PER_NODE, COUNTED, TIMED, STEPS = 8, 2, 3, 4
"""DDP is settled at its third step."""
LENGTHS = (4, 16)
SCORES = {"dot": dot, "maxsim": maxsim}
STRATEGIES: dict[str, Callable[[int, int, int], Plan]] = {
    "ddp": lambda count, nodes, node_ranks: Plan("ddp", count, nodes, node_ranks, None, "cpu"),
    "hsdp": lambda count, nodes, node_ranks: Plan("fsdp2", count, nodes, node_ranks, None, "cpu"),
    "fsdp2": lambda count, nodes, node_ranks: Plan(
        "fsdp2", count, nodes, node_ranks, None, "cpu", replicas=1
    ),
}
"""FSDP2 with a copy of the weights per node, and with one among all ranks."""


@dataclass(frozen=True)
class Case:
    """A step of one rank."""

    score: str
    strategy: str
    ranks: int
    queries: int
    """On this rank."""
    negatives: int = 1
    micro_batch_tokens: int | None = None

    def plan(self) -> Plan:
        per_node = min(self.ranks, RANKS_PER_NODE)
        return STRATEGIES[self.strategy](self.ranks, self.ranks // per_node, per_node)


def rank_batch(case: Case) -> Batch:
    """Random texts, of which no two are the same."""
    generator = torch.Generator().manual_seed(0)

    def texts(count: int, first: int) -> Texts:
        lengths = torch.randint(*LENGTHS, (count,), generator=generator).tolist()
        lists = [torch.randint(5, 50, (each,), generator=generator).tolist() for each in lengths]
        return Texts.of(lists, range(first, first + count))

    documents = texts(case.queries * (1 + case.negatives), 10**6)
    positives = documents.identities[:: 1 + case.negatives, None]
    return Batch(texts(case.queries, 0), documents, positives)


class Observer(lightning.Callback):
    """Counts one step, from the end of the one before, and takes the time of another one."""

    def __init__(self) -> None:
        self.ledger = Ledger(Control.group)
        self.clock = Clock.now()
        self.seconds = 0.0

    def on_train_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        if isinstance(trainer.model, torch.nn.parallel.DistributedDataParallel):
            trainer.model.register_comm_hook(None, average)

    def on_train_batch_end(self, *arguments: Any) -> None:
        number = arguments[-1]
        if number == COUNTED:
            self.ledger.__exit__(None, None, None)
        if number == TIMED:
            self.seconds = Clock.now().since(self.clock).processor
        if number + 1 == COUNTED:
            self.ledger.__enter__()
        self.clock = Clock.now()


def average(_: Any, bucket: distributed.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """What DDP does by itself, in Python: the fake group gives its own hook no result."""
    future: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    buffer = bucket.buffer().div_(ranks())
    distributed.all_reduce(buffer)
    future.set_result(buffer)
    return future


def rank_step(case: Case) -> dict[str, Any]:
    """Everything about a step of rank 0. Starts a process group, once per process."""
    warnings.filterwarnings("ignore")
    plan = case.plan()
    os.environ |= from_tests("ranks").launcher_variables(0, case.ranks, 1, plan.nodes)
    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=case.ranks)
    Control.group = distributed.new_group(backend="fake")
    with tempfile.TemporaryDirectory() as folder:
        from_tests("toy_models").make_toy("bert", Path(folder))
        encoder = from_tests("matrix").encoder_of(Path(folder), case.score, "full")
    module = Retriever(
        encoder,
        MicroBatching(encoder, case.micro_batch_tokens, kept_tokens=0),
        Contrastive(SCORES[case.score]),
        Temperature(0.05, is_learned=True),
        OptimizerSettings(1e-6, 1e-6, 1e-6, 0.0, "constant", 0, STEPS),
        dict,
    )
    observer = Observer()
    loop = lightning.Trainer(
        accelerator="cpu",
        strategy=lightning_strategy(plan, "cpu"),
        plugins=[lightning_precision(plan, "fp32", "cpu")],
        devices=plan.ranks_per_node,
        num_nodes=plan.nodes,
        max_steps=STEPS,
        callbacks=[observer],
        gradient_clip_val=1.0,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    leave_signals_alone(loop)
    batches = [rank_batch(case)] * STEPS
    loop.fit(module, torch.utils.data.DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    return asdict(case) | counted(observer, module, encoder)


def counted(observer: Observer, module: Retriever, encoder: Any) -> dict[str, Any]:
    """What the observer has seen, in numbers."""
    ledger = observer.ledger
    local = [getattr(weight, "_local_tensor", weight) for weight in module.parameters()]
    return {
        "collectives": [
            {**asdict(kind), "calls": calls, "bytes": ledger.bytes[kind]}
            for kind, calls in ledger.calls.items()
        ],
        "sent_bytes": ledger.sent(),
        "step_bytes": ledger.peak_bytes,
        "state_bytes": 16 * sum(weight.numel() for weight in local),
        "weights": sum(weight.numel() for weight in module.parameters()),
        "block_weights": sum(
            weight.numel() for block in transformer_blocks(module) for weight in block.parameters()
        ),
        "dimensions": encoder.dimensions,
        "seconds": observer.seconds,
    }


def calls(found: dict[str, Any], name: str, is_control: bool = False) -> tuple[int, int]:
    """Number and bytes of the collectives of one kind."""
    kinds = [
        kind
        for kind in found["collectives"]
        if kind["is_control"] == is_control and name in ("", kind["name"])
    ]
    return sum(kind["calls"] for kind in kinds), sum(kind["bytes"] for kind in kinds)


def row(found: dict[str, Any]) -> list[str]:
    """The line of the table."""
    cells = [f"{found['score']}, {found['strategy']}", str(found["ranks"]), str(found["queries"])]
    for name in ("gather", "scatter", "sum"):
        number, size = calls(found, name)
        cells.append(f"{number} {size / 1e6:.2f}")
    cells.append(str(calls(found, "", is_control=True)[0]))
    cells += [f"{found[name] / 1e6:.2f}" for name in ("sent_bytes", "state_bytes", "step_bytes")]
    return [*cells, f"{found['seconds']:.2f}"]


def cases(arguments: argparse.Namespace) -> list[Case]:
    """Each strategy with a fixed global batch, then with a fixed batch per rank."""
    counts = [int(count) for count in arguments.ranks.split(",")]
    least = arguments.batch // max(counts)
    pairs = [(count, arguments.batch // count) for count in counts]
    pairs += [(count, least) for count in counts if count < max(counts)]
    tokens = arguments.micro_batch_tokens
    return [
        Case(score, strategy, count, queries, micro_batch_tokens=tokens)
        for score, strategy in (
            ("dot", "ddp"),
            ("maxsim", "ddp"),
            ("dot", "hsdp"),
            ("dot", "fsdp2"),
        )
        for count, queries in pairs
    ]


def main(arguments: argparse.Namespace) -> None:
    found = []
    for case in cases(arguments):
        found.append(child(__file__, asdict(case)))
        print(", ".join(row(found[-1])), flush=True)
    header = ["objective, strategy", "ranks", "queries", "gathers, MB", "scatters, MB", "sums, MB"]
    header += ["agreements", "sent MB", "state MB", "step MB", "processor s"]
    title = (
        "A step of one rank: calls and MB of its collectives, what it sends, its memory and time\n"
        f"toy BERT of {found[0]['weights']:,} weights, queries with 2 documents each, of 4 to 15"
        f" tokens, {arguments.micro_batch_tokens} tokens per micro-batch, all recomputed\n"
        f"fake process group, {RANKS_PER_NODE} ranks per node: no GPU and no network was there"
    )
    save("thousand-ranks", table(title, header, [row(each) for each in found]), {"steps": found})


def measure(job: dict[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(1)
    names = Case.__dataclass_fields__
    return rank_step(Case(**{name: value for name, value in job.items() if name in names}))


if __name__ == "__main__":
    run(__file__, measure, main, ranks="8,64,1024", batch=4096, micro_batch_tokens=2048)
