"""DeepSpeed's ZeRO-1, 2 and 3, on GPUs and CPUs."""

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

from trainer.strategies.machine.deepspeed_settings import DeepSpeedSettings


class ZeroStrategy(DeepSpeedStrategy):
    """Lightning's DeepSpeedStrategy, also for CPUs, and without an engine if no weight is trained.

    The optimizer comes from the module, and the trainer's `gradient_clip_val` sets the clipping.
    DeepSpeed skips the update when a gradient is not finite.
    """

    def __init__(
        self, settings: DeepSpeedSettings, cluster_environment: ClusterEnvironment
    ) -> None:
        import deepspeed

        super().__init__(
            config=copy.deepcopy(settings) | {"train_micro_batch_size_per_gpu": 1},
            cluster_environment=cluster_environment,
        )
        # It would be compiled for minutes; gloo does the same.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        self._forward_redirection = _EngineForward(self._autocast)

    @property
    def parallel_devices(self) -> list[torch.device] | None:
        """The devices of this node. DeepSpeed requires an index on each."""
        return self._parallel_devices

    @parallel_devices.setter
    def parallel_devices(self, devices: list[torch.device] | None) -> None:
        indexed_devices = [
            torch.device("cpu", index) if device.type == "cpu" else device
            for index, device in enumerate(devices or [])
        ]
        self._parallel_devices = indexed_devices or None

    def setup_environment(self) -> None:
        """Calls DDPStrategy's method, since DeepSpeedStrategy refuses CPUs."""
        DDPStrategy.setup_environment(self)

    def setup(self, lightning_trainer: lightning.Trainer) -> None:
        """Sets up DeepSpeed for training.

        For validation without training the module is not changed. Its weights are complete before
        training, and partitioned among the ranks afterwards.
        """
        if lightning_trainer.state.fn == TrainerFn.FITTING:
            super().setup(lightning_trainer)
            return
        assert self.accelerator is not None
        assert self.lightning_module is not None
        self.accelerator.setup(lightning_trainer)
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
    """fp32 and bf16 as in the other strategies, and fp16 with DeepSpeed's loss scaling.

    fp32 and bf16 keep weights, gradients and their sums in float32; bf16 computes products under
    autocast. fp16 has weights in half precision. Batches are not converted.
    """

    def __init__(self, precision: Literal["fp32", "bf16", "fp16"], device: str) -> None:
        super().__init__("16-mixed" if precision == "fp16" else "32-true")
        self._autocast = precision == "bf16"
        self._device = device

    def inside(self) -> torch.autocast:
        """Returns the autocast to enter inside DeepSpeed's engine, which disables any outer
        autocast.
        """
        return torch.autocast(
            self._device, dtype=torch.bfloat16, enabled=self._autocast, cache_enabled=False
        )

    def convert_input(self, data: Any) -> Any:
        """Returns the batch unchanged."""
        return data

    @contextmanager
    def val_step_context(self) -> Generator[None, None, None]:
        """Autocast for validation, which runs without the engine."""
        with self.inside():
            yield


class _EngineForward(_ForwardRedirection):
    """Runs a step as the `forward` of DeepSpeed's engine, with a context around the step only."""

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
        original_forward = original_module.forward

        def step(*args: Any, **kwargs: Any) -> Any:
            original_module.forward = original_forward  # type: ignore[method-assign]
            with self._context():
                return getattr(original_module, method_name)(*args, **kwargs)

        original_module.forward = step  # type: ignore[method-assign]
        return wrapper_module(*args, **kwargs)
