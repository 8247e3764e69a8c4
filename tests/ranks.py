"""Runs a function on real processes that share a gloo process group, and brings back what each
returned.
"""

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
    """`function(*arguments)` on every rank; what each returned, in rank order. An error on any rank
    is raised here with its traceback.
    """
    context = multiprocessing.get_context(
        "fork"
    )  # a child starts in milliseconds, with the shape checks of the parent
    answers: Any = context.SimpleQueue()
    port = _free_port()
    processes = [
        context.Process(
            target=_work, args=(rank, ranks, port, answers, function, arguments), daemon=True
        )
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    found: dict[int, Any] = {}
    try:
        while len(found) < ranks:
            if not answers._reader.poll(TIMEOUT_SECONDS):
                raise TimeoutError(
                    f"only ranks {sorted(found)} of {ranks} answered within {TIMEOUT_SECONDS} s"
                )
            rank, well, answer = answers.get()
            if not well:
                raise AssertionError(f"rank {rank}:\n{answer}")
            found[rank] = pickle.loads(answer)
    finally:
        for process in processes:
            process.join(0 if len(found) < ranks else 30)
            process.kill()
    return [found[rank] for rank in range(ranks)]


def _work(
    rank: int,
    ranks: int,
    port: int,
    answers: Any,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "test",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }
    try:
        torch.distributed.init_process_group("gloo", rank=rank, world_size=ranks)
        answers.put(
            (rank, True, pickle.dumps(function(*arguments)))
        )  # not as shared memory, which would end with this process
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    except BaseException:
        answers.put((rank, False, traceback.format_exc()))
    finally:
        os._exit(0)  # the parent's threads and exit handlers are not this process's


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
