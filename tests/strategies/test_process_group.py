"""How the process group ends after an error. NCCL is not needed: gloo stands in its place."""

import multiprocessing
import os
from typing import Any

import torch
from ranks import free_port, launcher_variables
from torch import distributed

from trainer.collectives import gather_texts
from trainer.errors import OtherRankFailed
from trainer.strategies.machine.plan import Plan
from trainer.strategies.process_group import process_group

FORK = multiprocessing.get_context("fork")


def rank_on_gpu(rank: int, port: int, answers: Any) -> None:
    """Rank 1 ends inside the block, and rank 0 waits for it there. Rank 0 answers with the error
    that it gets, and whether it ended the group in order.
    """
    os.environ |= launcher_variables(rank, 2, port)
    torch.cuda.set_device = lambda device: None
    start, end = distributed.init_process_group, distributed.destroy_process_group
    ended_in_order: list[bool] = []
    distributed.init_process_group = lambda backend, device_id: start("gloo")
    distributed.destroy_process_group = lambda: (ended_in_order.append(True), end())
    try:
        with process_group(Plan("ddp", 2, 1, 2), "cuda"):
            gather_texts(["both are here"])
            if rank == 1:
                os._exit(1)
            gather_texts(["rank 1 is gone"])
    except OtherRankFailed as error:
        answers.put((str(error), bool(ended_in_order)))
    finally:
        os._exit(0)


def test_group_on_gpus_is_aborted_when_another_rank_is_lost():
    """To end NCCL in order, a rank would wait for the one that is gone."""
    answers, port = FORK.SimpleQueue(), free_port()
    processes = [
        FORK.Process(target=rank_on_gpu, args=(rank, port, answers), daemon=True)
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    message, has_ended_in_order = answers.get()
    assert "the connection to another rank was lost" in message
    assert not has_ended_in_order
