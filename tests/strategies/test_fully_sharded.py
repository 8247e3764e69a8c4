"""FSDP2 on two nodes: each has a copy of the weights, which its ranks share."""

import pytest
import torch
from killable import Command, Run
from ranks import on_ranks
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard

from trainer.strategies.fully_sharded import shard
from trainer.strategies.gradients import clip_to_global_norm


def sharded_gradient(max_norm):
    """Norm before clipping, the clipped gradient, and how each weight of a module lies on 2 x 2
    ranks, of which each sees another input.
    """
    torch.manual_seed(0)
    module = nn.Linear(6, 4)
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    shard(module, mesh, reshard_after_forward=True)
    module(torch.eye(6)[torch.distributed.get_rank()]).sum().backward()
    norm = clip_to_global_norm(torch.optim.SGD(module.parameters()), max_norm).total
    layout = [(value.placements, value.to_local().shape[0]) for value in module.parameters()]
    return norm, [value.grad.full_tensor() for value in module.parameters()], layout


@pytest.mark.parametrize("max_norm", [None, 0.5])
def test_norm_counts_each_copy_once(max_norm):
    """A column of the weight has 1/4 in each of its 4 rows for each rank, and the bias has 1."""
    expected = (4 * 4 / 16 + 4) ** 0.5
    scale = 1.0 if max_norm is None else max_norm / expected
    for norm, (weight, bias), layout in on_ranks(4, sharded_gradient, max_norm):
        assert norm == pytest.approx(expected)
        assert bias.tolist() == pytest.approx([scale] * 4, rel=1e-5)
        assert weight.norm() == pytest.approx(scale, rel=1e-5)
        assert layout == [((Replicate(), Shard(0)), 2)] * 2


def test_run_on_two_nodes_has_a_copy_of_the_weights_on_each(tmp_path, toy_folder):
    def report(rank):
        from trainer.strategies import fully_sharded as module

        original = module.shard

        def shard(whole, mesh, reshard):
            print(f"rank {rank}: {mesh.shape} {mesh.mesh.tolist()}", flush=True)
            original(whole, mesh, reshard)

        module.shard = shard

    run = Run(tmp_path, toy_folder("bert"), "bi-encoder-full", "optimization.max_steps=2")
    command = Command(*run.words("a"), ranks=4, strategy="hsdp", before=report)
    assert command.wait() == [0] * 4, command.text()[-3000:]
    for rank in range(4):
        assert f"rank {rank}: (2, 2) [[0, 1], [2, 3]]" in command.text()
