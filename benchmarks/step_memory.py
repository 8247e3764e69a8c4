"""Memory of one training step against its batch: with nothing kept for the backward pass, and with
as much as fits.

LoRA on all-MiniLM-L6-v2, queries and documents of azure-cli cut to 64 tokens, no text twice. Peak
above what the process held before the step, which follows a small one; each step in a process of
its own. Loss and gradient norm must not depend on what is kept, or the script ends with an error.

The C library keeps part of what is freed, and more of it the more micro-batches there are.
`--give_back 1` has it return every large block at once, which takes about twice the time and shows
what the step itself needs.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from measuring.children import child, run
from measuring.clocks import Clock, forget_peak_memory, peak_memory_megabytes
from measuring.data import SEED, TEMPERATURE, documents, model_folder, present
from measuring.record import noise, save, table

LENGTH, SMALL = 64, 16
KEPT = {"0": 0, "auto": "auto"}


def measure(job: dict[str, Any]) -> dict[str, Any]:
    import torch

    from trainer.build import hardware
    from trainer.build.families.registry import build_model
    from trainer.build.module import lightning_module
    from trainer.recipe.schema.data import DataSection
    from trainer.recipe.schema.families import BiEncoderRecipe
    from trainer.recipe.schema.machine import MachineSection
    from trainer.recipe.schema.model import BiEncoderModel, LoraTuning
    from trainer.recipe.schema.objective import BiEncoderContrastiveObjective
    from trainer.recipe.schema.training import OptimizationSection
    from trainer.retrieval.encoding.encode import autocast

    lengths = {"query_max_length_tokens": LENGTH, "document_max_length_tokens": LENGTH}
    plan = BiEncoderRecipe(
        name="memory",
        output="",
        seed=SEED,
        model=BiEncoderModel(backbone=job["model"], tuning=LoraTuning(), **lengths),
        data=DataSection(train=job["source"]),
        objective=BiEncoderContrastiveObjective(temperature=TEMPERATURE),
        optimization=OptimizationSection(batch_size=job["batch"], learning_rate=1e-4),
        machine=MachineSection(
            precision=job["precision"], threads=job["threads"] or None, kept_tokens=job["kept"]
        ),
    )
    hardware.prepare_machine(plan.machine)
    encoder = build_model(plan).train()
    module = lightning_module(plan, encoder, steps=1)
    optimizer = torch.optim.AdamW(
        [weight for weight in encoder.parameters() if weight.requires_grad]
    )
    lines = (Path(job["source"]) / "queries.jsonl").read_text().splitlines()
    queries = list(dict.fromkeys(json.loads(line)["text"] for line in lines))
    texts = list(dict.fromkeys(documents(Path(job["source"]), limit=10**9)))

    def step(first: int, count: int) -> dict[str, Any]:
        batch = batch_of(encoder, queries[first : first + count], texts[first : first + count])
        with autocast(encoder.device, hardware.precision(plan.machine)):
            encode = module.micro_batching.for_step(0)
            loss = module.objective(batch, encode, module.temperature()).loss
        loss.backward()
        norm = torch.nn.utils.get_total_norm(
            [weight.grad for weight in encoder.parameters() if weight.grad is not None]
        )
        optimizer.step()
        optimizer.zero_grad()
        tokens = len(batch.queries.tokens) + len(batch.documents.tokens)
        return {"loss": float(loss.detach()), "gradient_norm": float(norm), "tokens": tokens}

    step(min(len(queries), len(texts)) - SMALL, SMALL)
    before, start = forget_peak_memory(), Clock.now()
    found = step(0, job["batch"])
    spent = Clock.now().since(start)
    return {
        **found,
        "extra_megabytes": peak_memory_megabytes() - before,
        "processor_seconds": spent.processor,
        "wait_ratio": spent.wait_ratio,
        "kept_tokens": module.encode.args[-1],
        "precision": hardware.precision(plan.machine),
    }


def batch_of(encoder: Any, queries: list[str], texts: list[str]) -> Any:
    """Each query with one document; that they do not belong together costs nothing."""
    from trainer.batch import Batch

    assert len(queries) == len(texts), "more pairs than there are texts"
    tokenized = encoder.tokenize(texts, "document")
    return Batch(encoder.tokenize(queries, "query"), tokenized, tokenized.identities[:, None])


def main(arguments: argparse.Namespace) -> None:
    source = present("azure-cli")
    if source is None:
        return
    if arguments.give_back:
        os.environ["MALLOC_MMAP_THRESHOLD_"] = str(2**17)  # for the children
    same = {
        "source": str(source),
        "model": model_folder(),
        "precision": arguments.precision,
        "threads": arguments.threads,
    }
    results: dict[str, dict[str, Any]] = {}
    rows = []
    for batch in map(int, arguments.batches.split(",")):
        for name, kept in KEPT.items():
            results[f"{batch}, {name}"] = child(
                __file__, {**same, "batch": batch, "kept": kept}, timeout_seconds=1800
            )
            print(
                f"batch {batch}, kept_tokens {name}:"
                f" {results[f'{batch}, {name}']['extra_megabytes']:.0f} MB",
                flush=True,
            )
        nothing, auto = (results[f"{batch}, {name}"] for name in KEPT)
        for key in ("loss", "gradient_norm"):
            assert abs(nothing[key] - auto[key]) <= 1e-5 * abs(auto[key]), (
                f"batch {batch}: {key} is {nothing[key]} with nothing kept, else {auto[key]}"
            )
        cells = [
            f"{one[key]:.{digits}f}"
            for key, digits in (("extra_megabytes", 0), ("processor_seconds", 1))
            for one in (nothing, auto)
        ]
        rows.append([str(batch), f"{nothing['tokens']:,}", *cells, f"{auto['kept_tokens']:,}"])
    header = [
        "batch",
        "tokens",
        "nothing kept MB",
        "auto MB",
        "nothing kept processor s",
        "auto processor s",
        "tokens auto would keep",
    ]
    precision = next(iter(results.values()))["precision"]
    freed = ", freed memory given back at once" if arguments.give_back else ""
    text = table(
        f"peak memory of one step above what was held before it, LoRA, texts of at most {LENGTH}"
        f" tokens, {precision}{freed}",
        header,
        rows,
    )
    save(
        "step-memory" + ("-given-back" if arguments.give_back else ""),
        f"{text}\n{noise([one['wait_ratio'] for one in results.values()])}",
        results,
    )


if __name__ == "__main__":
    run(
        __file__,
        measure,
        main,
        batches="64,256,1024,4096",
        precision="auto",
        threads=0,
        give_back=0,
    )
