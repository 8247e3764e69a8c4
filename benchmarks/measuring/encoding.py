"""How fast texts are encoded."""

from collections.abc import Callable, Sequence
from typing import Any

from measuring.clocks import Clock, peak_memory_megabytes

WARM_UP_TEXTS = 128


def ours(job: dict[str, Any]) -> Any:
    """What `nearfar encode` and `nearfar evaluate` call."""
    from trainer.build import hardware
    from trainer.models.dense import read_encoder
    from trainer.recipe.schema.machine import MachineSection
    from trainer.retrieval.encoding.encode import encode

    machine = MachineSection(precision=job["precision"], threads=job["threads"] or None)
    hardware.prepare_machine(machine)
    encoder, precision = read_encoder(job["model"]), hardware.precision(machine)
    return lambda texts: encode(
        encoder,
        texts,
        "document",
        micro_batch_tokens=job["micro_batch_tokens"] or None,
        precision=precision,
    )


def speed(
    encode: Callable[[Sequence[str]], Any], texts: Sequence[str]
) -> tuple[Any, dict[str, Any]]:
    """What `encode` makes of the texts, and texts per second, after a warm-up."""
    encode(texts[:WARM_UP_TEXTS])
    start = Clock.now()
    vectors = encode(texts)
    spent = Clock.now().since(start)
    return vectors, {
        "texts_per_second": len(texts) / spent.wall,
        "texts_per_processor_second": len(texts) / spent.processor,
        "wait_ratio": spent.wait_ratio,
        "peak_megabytes": peak_memory_megabytes(),
        "texts": len(texts),
    }
