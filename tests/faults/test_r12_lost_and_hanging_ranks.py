"""R12, R13, R30: a rank that is killed, that fails, that hangs; and one that works long alone."""

import os
import signal
import time

import pytest
from killable import Command, Run


@pytest.fixture
def run(tmp_path, toy_folder):
    return Run(tmp_path, toy_folder("bert"), "bi-encoder-full", "optimization.max_steps=2000")


def test_ranks_end_when_one_of_them_is_killed(run):
    command = Command(*run.words("a"), ranks=4)
    run.wait_for_step(command, "a", 5)
    command.send(signal.SIGKILL, rank=2)
    start = time.monotonic()
    codes = command.wait(90)
    assert time.monotonic() - start < 60
    assert codes[2] == -signal.SIGKILL
    assert all(code not in (0, 85) for code in codes)
    assert "the connection to another rank was lost" in command.text()
    stacks = run.path("a") / "stacks"
    assert {path.name for path in stacks.iterdir()} >= {"rank-0.txt", "rank-1.txt", "rank-3.txt"}
    assert run.status("a")["status"] == "failed"


def test_message_of_the_failed_rank_comes_first(run):
    def fail(rank):
        from trainer.errors import BadData
        from trainer.modules.retriever import Retriever

        original = Retriever.training_step

        def step(self, batch, number):
            if rank == 1 and self.global_step == 3:
                raise BadData("the rows of rank 1 are bad")
            return original(self, batch, number)

        Retriever.training_step = step

    command = Command(*run.words("a"), ranks=2, before=fail)
    codes = command.wait(90)
    assert codes[1] == 2
    assert codes[0] != 0
    text = command.text()
    assert text.index("the rows of rank 1 are bad") < text.index("connection to another rank")


def test_rank_that_waits_for_a_failed_one_ends_too(run):
    """With NCCL, a collective does not notice that another rank has ended."""

    def fail(rank):
        from trainer.errors import BadData
        from trainer.modules.retriever import Retriever
        from trainer.runtime import watch

        watch.FAILURE_SECONDS = 3.0
        original = Retriever.training_step

        def step(self, batch, number):
            if self.global_step == 3:
                if rank == 1:
                    raise BadData("the rows of rank 1 are bad")
                time.sleep(1000)  # stands for a collective of NCCL
            return original(self, batch, number)

        Retriever.training_step = step

    command = Command(*run.words("a"), ranks=2, before=fail)
    assert command.wait(90) == [2, 2], command.text()[-3000:]
    assert "rank 1 has failed: BadData: the rows of rank 1 are bad" in command.text()
    assert run.status("a")["exit_code"] == 2


def test_rank_that_hangs_in_data_loading_ends_the_run_with_88(run):
    def hang(rank):
        from trainer.data.module import Steps

        original = Steps.batch

        def batch(self, step, *arguments):
            if rank == 1 and step == 8:
                time.sleep(1000)
            return original(self, step, *arguments)

        Steps.batch = batch

    command = Command(*run.words("a", "machine.hang_minutes=0.05"), ranks=2, before=hang)
    assert command.wait() == [88, 88], command.text()[-3000:]
    for rank in (0, 1):
        stack = (run.path("a") / f"stacks/rank-{rank}.txt").read_text()
        assert "no progress" in stack
        assert "Thread" in stack
    assert "no progress of any rank" in command.text()
    assert run.status("a")["exit_code"] == 88


def test_no_rank_waits_in_a_collective_of_training_while_the_first_one_works(run):
    """R30: the first rank measures BM25 for longer than the time-out of the training group."""

    def slow(rank):
        import datetime

        from torch import distributed

        import trainer.evaluation.before_and_after as module

        original, start = module.evaluate_bm25, distributed.init_process_group

        def evaluate_bm25(*arguments, **keywords):
            time.sleep(6)
            return original(*arguments, **keywords)

        def init_process_group(backend, **keywords):
            start(backend, timeout=datetime.timedelta(seconds=3), **keywords)

        module.evaluate_bm25 = evaluate_bm25
        distributed.init_process_group = init_process_group

    command = Command(*run.words("a", "optimization.max_steps=3"), ranks=2, before=slow)
    assert command.wait(90) == [0, 0], command.text()[-3000:]


def test_killed_run_leaves_its_folder_free(run):
    command = Command(*run.words("a"))
    run.wait_for_step(command, "a", 5)
    os.kill(command.processes[0].pid, signal.SIGKILL)
    command.wait()
    command = Command(*run.words("a", "--resume", "optimization.max_steps=2000"))
    run.wait_for_step(command, "a", 12)
    command.send(signal.SIGTERM)
    assert command.wait() == [85]
