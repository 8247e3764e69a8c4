"""The speed of a training step of BERT-base with the automatic settings, and with others."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from gpu_stages.setting import Case, Setting, ragged_lengths, random_batch
from trainer.batch import Batch
from trainer.build import hardware
from trainer.microbatches import in_microbatches
from trainer.models.dense import DenseSettings, build_dense_encoder
from trainer.models.encoder import Encoder
from trainer.models.parts.lora import blocks
from trainer.models.settings import Lora
from trainer.modules.optimizer import OptimizerSettings, adamw
from trainer.modules.retriever import Temperature
from trainer.objectives.contrastive import Contrastive
from trainer.objectives.objective import Objective
from trainer.recipe.schema.machine import MachineSection
from trainer.retrieval.encoding.encode import autocast
from trainer.scores import dot
from trainer.strategies.gradients import clip_to_global_norm
from trainer.strategies.machine.plan import SINGLE

DATASHEET_TFLOPS = 989
TUNINGS: dict[str, Lora | None] = {"full": None, "LoRA": Lora(rank=16)}
OPTIMIZER = OptimizerSettings(1e-5, 1e-5, 1e-5, 0.01, "constant", 0, 100)


@dataclass(frozen=True)
class Work:
    """What one step trains on."""

    queries: Sequence[int]
    documents: Sequence[int]

    @property
    def tokens(self) -> int:
        return sum(self.queries) + sum(self.documents)

    def batch(self) -> Batch:
        return random_batch(self.queries, self.documents)


def works(setting: Setting) -> dict[str, Work]:
    pairs, length = setting.size((512, 512), (4, 16))
    many = setting.size(2048, 8)
    return {
        "equal lengths": Work([length] * pairs, [length] * pairs),
        "ragged lengths": Work([8] * many, ragged_lengths(many, length)),
    }


@dataclass(frozen=True)
class Choice:
    """Tokens per micro-batch, and kept per step; None: the automatic number, times `share`."""

    tokens: int | None = None
    share: float = 1.0


def cases(setting: Setting) -> Mapping[str, Case]:
    equal, ragged = works(setting).values()
    found: dict[str, Case] = {}
    for tuning in tunings(setting):
        measure = partial(speed, setting, tuning)
        found[f"{tuning}"] = partial(measure, equal)
        found[f"{tuning}, ragged lengths"] = partial(measure, ragged)
    for tokens in setting.size((16384, 32768, 65536), (64,)):
        found[f"full, {tokens} per micro-batch"] = partial(
            speed, setting, "full", equal, Choice(tokens)
        )
    found["full, 0.6 of the automatic number kept"] = partial(
        speed, setting, "full", equal, Choice(share=0.6)
    )
    for tuning in tunings(setting):
        found[f"profile, {tuning}"] = partial(kernels, setting, tuning)
    return found


def tunings(setting: Setting) -> list[str]:
    return setting.size(list(TUNINGS), ["LoRA"])


def dense(setting: Setting, tuning: str) -> Encoder:
    settings = DenseSettings(backbone=str(setting.base), lora=TUNINGS[tuning])
    return build_dense_encoder(settings).to(setting.device)


def speed(
    setting: Setting,
    tuning: str,
    work: Work,
    choice: Choice | None = None,
    change: Callable[[Encoder], None] = lambda encoder: None,
    build: Callable[[Setting, str], Encoder] = dense,
    objective: Objective | None = None,
) -> dict[str, Any]:
    """Tokens per second of whole steps, the share of the peak, and the loss of each step."""
    encoder, choice = build(setting, tuning), choice or Choice()
    change(encoder)
    automatic, kept = (
        (2048, 4096)  # it has no addresses by which memory could be measured
        if setting.is_pretend
        else hardware.micro_batching(MachineSection(), encoder, SINGLE)
    )
    kept = int(kept * choice.share)
    tokens = choice.tokens or automatic
    step, losses = one_step(setting, encoder, work.batch(), tokens, kept, objective)
    found = setting.seconds_and_peak(step, repeats=2)
    rate = work.tokens / found["seconds"]
    operations = operations_per_token(encoder, tuning, work.tokens / len(work.documents) / 2)
    teraflops = rate * operations / 1e12
    ceiling = setting.results.get("ceilings", {}).get("bf16 TFLOP/s")
    return {
        "tokens/s": rate,
        "TFLOP/s": teraflops,
        "of the datasheet": teraflops / DATASHEET_TFLOPS,
        "of the products": teraflops / ceiling if isinstance(ceiling, float) else 0.0,
        "tokens per micro-batch": tokens,
        "kept tokens": kept,
        **found,
        "losses": [round(float(loss), 4) for loss in losses],
    }


def one_step(
    setting: Setting,
    encoder: Encoder,
    batch: Batch,
    tokens: int,
    kept: int,
    objective: Objective | None = None,
) -> tuple[Callable[[], None], list[Any]]:
    """A step as the trainer runs it, and the losses of the steps so far."""
    temperature = Temperature(0.05, is_learned=True).to(setting.device)
    optimizer: Any = adamw(encoder, temperature, OPTIMIZER)["optimizer"]
    loss_of, losses = objective or Contrastive(dot), list[Any]()

    def step() -> None:
        with autocast(setting.device, setting.precision):
            encode = in_microbatches(encoder, tokens, kept, 0, len(losses))
            loss = loss_of(batch, encode, temperature()).loss
        loss.backward()  # type: ignore[no-untyped-call]
        clip_to_global_norm(optimizer, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())

    return step, losses


def operations_per_token(encoder: Encoder, tuning: str, length: float) -> float:
    """Forward and backward: 6 per weight of the blocks (4 with LoRA, which needs no gradient of
    frozen weights), and 12 layers x length x width for attention.
    """
    layers = blocks(encoder.backbone)
    weights = sum(
        parameter.numel()
        for name, parameter in layers.named_parameters()
        if parameter.ndim == 2 and "lora_" not in name
    )
    config = encoder.pristine_config
    attention = 12 * len(layers) * length * config.hidden_size
    return (6 if tuning == "full" else 4) * weights + attention


def kernels(setting: Setting, tuning: str) -> dict[str, float]:
    """Of one micro-batch: kernels, and milliseconds of the CPU and of the GPU."""
    pairs, length = setting.size((16, 512), (2, 16))
    work = Work([length] * pairs, [length] * pairs)
    encoder = dense(setting, tuning)
    step, _ = one_step(setting, encoder, work.batch(), work.tokens, work.tokens)
    step()
    setting.wait()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if setting.is_cuda else [])]
    with profile(activities=activities) as recorded:
        step()
        setting.wait()
    events = recorded.key_averages()
    launches = [event for event in events if "LaunchKernel" in event.key]
    return {
        "kernels": float(sum(event.count for event in launches)),
        "CPU ms": sum(event.self_cpu_time_total for event in events) / 1e3,
        "GPU ms": sum(
            event.self_device_time_total
            for event in events
            if event.device_type == torch.autograd.DeviceType.CUDA
        )
        / 1e3,
        "ms": 1e3 * setting.seconds(step),
    }
