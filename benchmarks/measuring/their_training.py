"""Training by sentence-transformers or PyLate, watched: the parts that do not depend on the kind of
model.
"""

from typing import Any

from measuring.data import SEED
from measuring.training import CLIP, WEIGHT_DECAY, Record

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def recording(loss_class: Any, record: Record) -> Any:
    """The class of a loss that also records each value, or the sum of its parts."""

    class Recording(loss_class):  # type: ignore[misc]
        def forward(self, *inputs: Any, **settings: Any) -> Any:
            loss = super().forward(*inputs, **settings)
            parts = loss.values() if isinstance(loss, dict) else [loss]
            record.losses.append(float(sum(part.detach() for part in parts)))
            return loss

    return Recording


def watch(record: Record) -> Any:
    """A callback that records the end of each step."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            record.step()

    return Watch()


def arguments(job: dict[str, Any], sampler_class: Any, learning_rate: float) -> dict[str, Any]:
    """The arguments of a training as ours does it: AdamW at a constant rate, the rows in order,
    nothing saved or logged.
    """
    from torch.utils.data import SequentialSampler

    return {
        "output_dir": job["folder"],
        "per_device_train_batch_size": job["batch"],
        "max_steps": job["steps"],
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch_fused",
        "bf16": job["precision"] == "bf16",
        "use_cpu": True,
        "seed": SEED,
        "batch_sampler": lambda dataset, **settings: sampler_class(
            SequentialSampler(dataset),
            **{**settings, "batch_size": job["batch"], "drop_last": True},
        ),
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "logging_strategy": "no",
        "learning_rate": learning_rate,
        "weight_decay": WEIGHT_DECAY,
        "max_grad_norm": CLIP,
    }
