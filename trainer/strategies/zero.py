"""DeepSpeed's ZeRO-1, 2 and 3, on CPUs too."""

import copy
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import pytorch_lightning as lightning
import torch
from pytorch_lightning.plugins.environments import ClusterEnvironment
from pytorch_lightning.plugins.precision import DeepSpeedPrecision
from pytorch_lightning.strategies import DDPStrategy, DeepSpeedStrategy
from pytorch_lightning.strategies.strategy import _ForwardRedirection
from pytorch_lightning.trainer.states import TrainerFn
from torch import nn

from trainer.strategies.deepspeed_settings import Settings


class ZeroStrategy(DeepSpeedStrategy):
    """Lightning's DeepSpeedStrategy without its restriction to GPUs, and without an engine where
    nothing is trained.

    The optimizer is the module's own, clipping is by the trainer's `gradient_clip_val`, and a
    gradient that is not finite is never applied: DeepSpeed skips that update.
    """

    def __init__(self, settings: Settings, cluster_environment: ClusterEnvironment) -> None:
        import deepspeed

        super().__init__(
            config=copy.deepcopy(settings) | {"train_micro_batch_size_per_gpu": 1},
            cluster_environment=cluster_environment,
        )
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = (
            False  # else compiled for minutes; gloo does it
        )
        self._forward_redirection = _InsideEngine(self._autocast)

    @property
    def parallel_devices(self) -> list[torch.device] | None:
        """The devices of this node; DeepSpeed wants a number on each."""
        return self._parallel_devices

    @parallel_devices.setter
    def parallel_devices(self, devices: list[torch.device] | None) -> None:
        numbered = [
            torch.device("cpu", number) if device.type == "cpu" else device
            for number, device in enumerate(devices or [])
        ]
        self._parallel_devices = numbered or None

    def setup_environment(self) -> None:
        """As the parent's parent does: DeepSpeed runs on CPUs."""
        DDPStrategy.setup_environment(self)

    def setup(self, trainer: lightning.Trainer) -> None:
        """As the parent does where the module is trained. For validation alone it stays as it is:
        plain before training, shared out after.
        """
        if trainer.state.fn == TrainerFn.FITTING:
            super().setup(trainer)
            return
        assert self.accelerator is not None
        assert self.lightning_module is not None
        self.accelerator.setup(trainer)
        self.model = self.lightning_module
        if not any(hasattr(parameter, "ds_id") for parameter in self.model.parameters()):
            self.model.to(self.root_device)
        self.barrier()

    def _autocast(self) -> AbstractContextManager[Any]:
        return (
            self.precision_plugin.inside()
            if isinstance(self.precision_plugin, ZeroPrecision)
            else nullcontext()
        )


class ZeroPrecision(DeepSpeedPrecision):
    """fp32 and bf16 as under the other strategies: weights, gradients and their sums in float32,
    for bf16 with products under autocast.

    fp16 has weights in half precision and DeepSpeed's own scaling of the loss. Batches are left as
    they are.
    """

    def __init__(self, precision: Literal["fp32", "bf16", "fp16"], device: str) -> None:
        super().__init__("16-mixed" if precision == "fp16" else "32-true")
        self._autocast = precision == "bf16"
        self._device = device

    def inside(self) -> torch.autocast:
        """Entered within DeepSpeed's engine, which switches off an autocast from outside."""
        return torch.autocast(
            self._device, dtype=torch.bfloat16, enabled=self._autocast, cache_enabled=False
        )

    def convert_input(self, data: Any) -> Any:
        """The batch itself."""
        return data

    @contextmanager
    def val_step_context(self) -> Generator[None, None, None]:
        """Validation has no engine around it."""
        with self.inside():
            yield


class _InsideEngine(_ForwardRedirection):
    """Runs a step as the `forward` of DeepSpeed's engine, with a context around the step alone."""

    def __init__(self, context: Callable[[], AbstractContextManager[Any]]) -> None:
        self._context = context

    def __call__(
        self,
        wrapper_module: nn.Module,
        original_module: lightning.LightningModule,
        method_name: str,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        plain = original_module.forward

        def step(*args: Any, **kwargs: Any) -> Any:
            original_module.forward = plain  # type: ignore[method-assign]
            with self._context():
                return getattr(original_module, method_name)(*args, **kwargs)

        original_module.forward = step  # type: ignore[method-assign]
        return wrapper_module(*args, **kwargs)
