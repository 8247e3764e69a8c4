"""Runs a function on real processes in a gloo process group, and returns their results."""

import multiprocessing
import os
import pickle
import socket
import traceback
from collections.abc import Callable
from typing import Any

import torch

TIMEOUT_SECONDS = 900


def on_ranks(ranks: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """The results of `function(*arguments)` on all ranks, in the order of the ranks.

    An error on any rank is raised here with its traceback.
    """
    # A fork starts in milliseconds, with the shape checks of the parent.
    context = multiprocessing.get_context("fork")
    answers: Any = context.SimpleQueue()
    port = free_port()
    processes = [
        context.Process(
            target=_work, args=(rank, ranks, port, answers, function, arguments), daemon=True
        )
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    results: dict[int, Any] = {}
    try:
        while len(results) < ranks:
            if not answers._reader.poll(TIMEOUT_SECONDS):
                raise TimeoutError(
                    f"only ranks {sorted(results)} of {ranks} answered within {TIMEOUT_SECONDS} s"
                )
            rank, is_success, answer = answers.get()
            if not is_success:
                raise AssertionError(f"rank {rank}:\n{answer}")
            results[rank] = pickle.loads(answer)
    finally:
        for process in processes:
            process.join(0 if len(results) < ranks else 30)
            process.kill()
    return [results[rank] for rank in range(ranks)]


def _work(
    rank: int,
    ranks: int,
    port: int,
    answers: Any,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    torch.set_num_threads(1)
    os.environ |= launcher_variables(rank, ranks, port)
    try:
        torch.distributed.init_process_group("gloo", rank=rank, world_size=ranks)
        # Pickled here: shared memory would end with this process.
        answers.put((rank, True, pickle.dumps(function(*arguments))))
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    except BaseException:
        answers.put((rank, False, traceback.format_exc()))
    finally:
        os._exit(0)  # without the threads and exit handlers of the parent


def launcher_variables(rank: int, ranks: int, port: int, nodes: int = 1) -> dict[str, str]:
    """What torchrun exports to a rank."""
    ranks_per_node = ranks // nodes
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank % ranks_per_node),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks_per_node),
        "GROUP_RANK": str(rank // ranks_per_node),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "test",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
