"""Layers compiled by torch.compile (`machine.compile_layers`): the time of a training step without
and with them, what compiling costs, and after how many steps that pays.

all-MiniLM-L6-v2 on azure-cli, packed micro-batches of 2 048 tokens. Each case has a process of its
own and an empty cache of the compiler. In it, plain and compiled steps take turns.
"""

import argparse
import itertools
import os
import resource
import statistics
import tempfile
from typing import Any

from measuring.children import child, run
from measuring.clocks import Clock
from measuring.data import SEED, documents, model_folder, present
from measuring.record import noise, save, spread, table

TOKENS = 2048


def measure(job: dict[str, Any]) -> dict[str, Any]:
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = job["cache"]
    import torch

    from trainer.build import hardware
    from trainer.build.families.registry import build_model
    from trainer.build.module import lightning_module
    from trainer.models.parts.compiled import compile_layers
    from trainer.recipe.schema.data import DataSection
    from trainer.recipe.schema.families import BiEncoderRecipe
    from trainer.recipe.schema.machine import MachineSection
    from trainer.recipe.schema.model import BiEncoderModel, FullTuning, LoraTuning
    from trainer.retrieval.encoding.encode import autocast

    tuning: Any = LoraTuning() if job["tuning"] == "lora" else FullTuning()
    recipe = BiEncoderRecipe(
        name="compiled",
        seed=SEED,
        model=BiEncoderModel(backbone=job["model"], tuning=tuning),
        data=DataSection(train=job["source"]),
        machine=MachineSection(
            precision=job["precision"],
            threads=job["threads"],
            micro_batch_tokens=TOKENS,
            kept_tokens=10**6,
        ),
    )
    hardware.prepare_machine(recipe.machine)
    encoder = build_model(recipe)
    module = lightning_module(recipe, encoder, steps=1)
    optimizer = torch.optim.AdamW([each for each in encoder.parameters() if each.requires_grad])
    texts = encoder.tokenize(job["texts"], "document")

    def step(stance: str) -> tuple[Clock, float]:
        torch.compiler.set_stance(stance)
        start = Clock.now()
        with autocast(encoder.device, job["precision"]):
            vectors = module.micro_batching.for_step(0)(texts)
            loss = (vectors * torch.linspace(-1, 1, vectors.numel()).view_as(vectors)).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return Clock.now().since(start), float(loss.detach())

    step("default")  # plain yet
    compile_layers(encoder)
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    first, _ = step("default")
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - children
    step("force_eager"), step("default")
    clocks: dict[str, list[Clock]] = {"force_eager": [], "default": []}
    for _ in range(job["turns"]):
        for stance, spent in clocks.items():
            spent.append(step(stance)[0])
    plain, compiled = ([spent.processor for spent in each] for each in clocks.values())
    usual = clocks["default"][-1]
    return {
        "tokens": len(texts.tokens),
        "plain_seconds": plain,
        "compiled_seconds": compiled,
        "compilation_processor_seconds": first.processor - statistics.median(compiled) + children,
        "compilation_seconds": first.wall - usual.wall,
        "wait_ratio": max(spent.wait_ratio for each in clocks.values() for spent in each),
    }


def main(arguments: argparse.Namespace) -> None:
    source = present("azure-cli")
    if source is None:
        return
    results, rows = {}, []
    cases = itertools.product(arguments.tunings.split(","), arguments.precisions.split(","))
    for tuning, precision in cases:
        with tempfile.TemporaryDirectory() as cache:
            job = {
                "model": model_folder(),
                "source": str(source),
                "texts": documents(source, arguments.texts),
                "tuning": tuning,
                "precision": precision,
                "threads": arguments.threads,
                "turns": arguments.turns,
                "cache": cache,
            }
            one = results[f"{tuning}, {precision}"] = child(__file__, job, timeout_seconds=1800)
        plain, compiled = one["plain_seconds"], one["compiled_seconds"]
        saving = statistics.median(plain) - statistics.median(compiled)
        cost = one["compilation_processor_seconds"]
        rows.append(
            [
                f"{tuning}, {precision}",
                spread(plain, 2),
                spread(compiled, 2),
                f"{statistics.median(compiled) / statistics.median(plain):.2f}",
                f"{cost:.0f}",
                f"{one['compilation_seconds']:.0f}",
                f"{cost / saving:,.0f}" if saving > 0 else "never",
            ]
        )
        print(rows[-1], flush=True)
    tokens = next(iter(results.values()))["tokens"]
    title = (
        f"processor s of a step of {tokens:,} tokens, {arguments.threads} thread(s),"
        f" {arguments.turns} turns; median (range)"
    )
    header = ["", "plain", "compiled", "ratio", "compiling", "by the clock", "pays after steps"]
    text = table(title, header, rows)
    waits = [one["wait_ratio"] for one in results.values()]
    save("compiled-layers", f"{text}\n{noise(waits)}", results)


if __name__ == "__main__":
    run(
        __file__,
        measure,
        main,
        tunings="full,lora",
        precisions="fp32,bf16",
        texts=48,
        turns=7,
        threads=1,
    )
