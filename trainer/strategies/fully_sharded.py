"""FSDP2: every rank keeps a slice of every weight; a block's weights are gathered when it runs."""

from typing import Any

import pytorch_lightning as lightning
from pytorch_lightning.plugins.environments import ClusterEnvironment
from pytorch_lightning.strategies import ModelParallelStrategy
from pytorch_lightning.trainer.states import TrainerFn
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard


class FullyShardedStrategy(ModelParallelStrategy):
    """Lightning's ModelParallelStrategy that shards a module by itself, on CPUs too.

    Weights travel and stay in float32, and autocast chooses the arithmetic as it does on one
    device: so the gradient of a rank is that of DDP. The average over ranks is FSDP2's own.
    """

    def __init__(
        self, ranks: int, reshard_after_forward: bool, cluster_environment: ClusterEnvironment
    ) -> None:
        super().__init__(data_parallel_size=ranks, tensor_parallel_size=1)
        self.cluster_environment = cluster_environment
        self._reshard_after_forward = reshard_after_forward

    def setup(self, trainer: lightning.Trainer) -> None:
        """As the parent does, but the module need not shard itself; a second call (validation, then
        training) finds it sharded.
        """
        assert self.model is not None
        assert self.accelerator is not None
        self.accelerator.setup(trainer)
        self.model = self.precision_plugin.convert_module(self.model)
        self.model.to(self.root_device)
        shard(self.model, self.device_mesh["data_parallel"], self._reshard_after_forward)
        self.barrier()
        if trainer.state.fn == TrainerFn.FITTING:
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Through the module's `forward`, where FSDP2 gathers what lies outside of the blocks."""
        assert self.model is not None
        assert self.lightning_module is not None
        with self.precision_plugin.train_step_context():
            return self._forward_redirection(
                self.model, self.lightning_module, "training_step", *args, **kwargs
            )

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        """Likewise."""
        assert self.model is not None
        assert self.lightning_module is not None
        with self.precision_plugin.val_step_context():
            return self._forward_redirection(
                self.model, self.lightning_module, "validation_step", *args, **kwargs
            )


def shard(module: nn.Module, mesh: DeviceMesh, reshard_after_forward: bool) -> None:
    """Shards every block, then the whole module, so that no parameter is left out: one outside
    would not be averaged over ranks.
    """
    if isinstance(module, FSDPModule):
        return
    for block in blocks(module):
        fully_shard(block, mesh=mesh, reshard_after_forward=reshard_after_forward)
    fully_shard(module, mesh=mesh)


def blocks(module: nn.Module) -> list[nn.Module]:
    """The members of the outermost lists of modules: the layers of each transformer inside.

    >>> layers = nn.ModuleList([nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2))])
    >>> len(
    ...     blocks(
    ...         nn.ModuleDict(
    ...             {"encoder": nn.ModuleDict({"layers": layers}), "head": nn.Linear(2, 2)}
    ...         )
    ...     )
    ... )
    2
    """
    found: list[nn.Module] = []
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            found += [
                block
                for block in child
                if not isinstance(block, nn.ModuleList) and any(True for _ in block.parameters())
            ]
        else:
            found += blocks(child)
    return found
