"""FSDP2: every rank stores a slice of every weight, and gathers a block's weights to run it.

On several nodes, each node has a copy of the weights, which its ranks share (HSDP).
"""

from typing import Any

import pytorch_lightning as lightning
from pytorch_lightning.plugins.environments import ClusterEnvironment
from pytorch_lightning.strategies import ModelParallelStrategy
from pytorch_lightning.strategies.strategy import _ForwardRedirection
from pytorch_lightning.trainer.states import TrainerFn
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from trainer.errors import NearfarError
from trainer.strategies.machine.plan import Plan


class FullyShardedStrategy(ModelParallelStrategy):
    """Lightning's ModelParallelStrategy that shards the module itself, on CPUs too.

    Weights are stored and sent in float32, and autocast chooses the arithmetic as on one device.
    The gradient of a rank is therefore that of DDP. FSDP2 averages the gradients over the ranks.
    """

    def __init__(self, plan: Plan, cluster_environment: ClusterEnvironment) -> None:
        super().__init__(data_parallel_size=plan.ranks, tensor_parallel_size=1)
        self.cluster_environment = cluster_environment
        self._plan = plan
        self._forward_redirection = _WholeForward()

    def setup(self, lightning_trainer: lightning.Trainer) -> None:
        """Sets up the module and shards it, unless validation before training has done so."""
        assert self.model is not None
        assert self.accelerator is not None
        self.accelerator.setup(lightning_trainer)
        self.model = self.precision_plugin.convert_module(self.model)
        self.model.to(self.root_device)
        shard(self.model, self._mesh(), self._plan.reshard_after_forward)
        self.barrier()
        if lightning_trainer.state.fn == TrainerFn.FITTING:
            self.setup_optimizers(lightning_trainer)
        self.setup_precision_plugin()

    def _mesh(self) -> DeviceMesh:
        """Returns the mesh of all ranks: one row per copy of the weights, if there are several."""
        copies = self._plan.weight_copies
        if copies == 1:
            return self.device_mesh["data_parallel"]
        return init_device_mesh(
            self.root_device.type,
            (copies, self._plan.ranks_per_copy),
            mesh_dim_names=("replicate", "shard"),
        )

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the step in the module's `forward`, where FSDP2 gathers weights outside blocks."""
        assert self.model is not None
        assert self.lightning_module is not None
        with self.precision_plugin.train_step_context():
            return self._forward_redirection(
                self.model, self.lightning_module, "training_step", *args, **kwargs
            )

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the step in the module's `forward`, like `training_step`."""
        assert self.model is not None
        assert self.lightning_module is not None
        with self.precision_plugin.val_step_context():
            return self._forward_redirection(
                self.model, self.lightning_module, "validation_step", *args, **kwargs
            )


class _WholeForward(_ForwardRedirection):
    """Runs a step as the module's `forward`, to its end even if the run is stopped inside it.

    FSDP2 shards the weights again at the end of a forward pass. The error is raised after that.
    """

    def __call__(
        self,
        wrapper_module: nn.Module,
        original_module: lightning.LightningModule,
        method_name: str,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        errors: list[NearfarError] = []
        method = getattr(original_module, method_name)

        def step(*args: Any, **kwargs: Any) -> Any:
            try:
                return method(*args, **kwargs)
            except NearfarError as error:
                errors.append(error)
                return None

        former = vars(original_module).get(method_name)
        setattr(original_module, method_name, step)
        try:
            result = super().__call__(wrapper_module, original_module, method_name, *args, **kwargs)
        finally:
            if former is None:
                delattr(original_module, method_name)
            else:
                setattr(original_module, method_name, former)
        if errors:
            raise errors[0]
        return result


def shard(module: nn.Module, mesh: DeviceMesh, reshard_after_forward: bool) -> None:
    """Shards every block and then the rest of the module.

    No parameter may be left out, because its gradient would not be averaged over the ranks.
    """
    if isinstance(module, FSDPModule):
        return
    for block in transformer_blocks(module):
        fully_shard(block, mesh=mesh, reshard_after_forward=reshard_after_forward)
    fully_shard(module, mesh=mesh)


def transformer_blocks(module: nn.Module) -> list[nn.Module]:
    """Returns the members of the outermost module lists: the layers of each transformer in the
    module.

    >>> layers = nn.ModuleList([nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2))])
    >>> encoder = nn.ModuleDict({"layers": layers})
    >>> len(transformer_blocks(nn.ModuleDict({"encoder": encoder, "head": nn.Linear(2, 2)})))
    2
    """
    blocks: list[nn.Module] = []
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            blocks += [
                block
                for block in child
                if not isinstance(block, nn.ModuleList) and any(True for _ in block.parameters())
            ]
        else:
            blocks += transformer_blocks(child)
    return blocks
