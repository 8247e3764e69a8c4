"""R31: out of memory at a step: a report with the tokens, and one retry with half of them."""

import json

import pytest
import torch
from killable import Command, Run
from less_memory import limit_micro_batches, limited_interpreter

STEP = 7


@pytest.fixture
def run(tmp_path, toy_folder):
    words = ["optimization.max_steps=12", "objective.temperature=0.5"]
    return Run(tmp_path, toy_folder("bert"), "bi-encoder-full", *words)


def attempts(run, name):
    return json.loads((run.path(name) / "attempts.json").read_text())


def with_limit(run, tokens, rank=0):
    """The settings of a command that has this limit, also in the processes that follow it."""

    def before(number):
        if number == rank:
            from trainer import microbatches

            limit_micro_batches(microbatches, tokens, STEP)

    environment = limited_interpreter(run.parent / "site", tokens, STEP, rank)
    return {"before": before, "environment": environment}


def check_half_was_tried(run, name):
    first, second = attempts(run, name)
    assert first["reason"] == "out_of_memory"
    tokens = first["out_of_memory"]
    assert tokens["step"] > STEP
    assert (tokens["micro_batch_tokens"], tokens["kept_tokens"]) == (64, 0)
    assert tokens["batch_tokens"] > tokens["longest_text_tokens"] > 3
    assert "reason" not in second
    assert "--resume" in second["command"]
    assert "machine.micro_batch_tokens=32" in second["command"]
    return second


def check_like_small_micro_batches(run, name):
    command = Command(*run.words("small", "machine.micro_batch_tokens=32"))
    assert command.wait() == [0], command.text()[-3000:]
    assert run.losses(name) == pytest.approx(run.losses("small"), rel=1e-5, abs=1e-6)


def test_single_process_continues_once_with_half_the_micro_batch(run):
    command = Command(*run.words("a"), **with_limit(run, 40))
    assert command.wait() == [0], command.text()[-3000:]
    assert "is out of memory at step 8: its batch has " in command.text()
    assert "starting again: nearfar fit --resume " in command.text()
    assert check_half_was_tried(run, "a")["from_step"] == STEP
    check_like_small_micro_batches(run, "a")


def test_second_lack_of_memory_ends_the_run(run):
    command = Command(*run.words("a"), **with_limit(run, 20))
    assert command.wait() == [2], command.text()[-3000:]
    assert [attempt["reason"] for attempt in attempts(run, "a")] == ["out_of_memory"] * 2
    assert "in micro-batches of 32 tokens (64 before), and the" in command.text()
    assert run.status("a")["out_of_memory"]["micro_batch_tokens"] == 32
    assert "Traceback" not in command.text()


@pytest.mark.parametrize("rank", [0, 1])
def test_all_ranks_end_when_one_is_out_of_memory(run, rank):
    def before(number):
        from trainer.modules.retriever import Retriever

        original = Retriever.training_step

        def training_step(self, batch, index):
            loss = original(self, batch, index)
            if number == rank and self.global_step == STEP:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return loss

        Retriever.training_step = training_step

    command = Command(*run.words("a"), ranks=2, before=before)
    assert command.wait() == [2, 2], command.text()[-3000:]
    assert f"error: rank {rank} on " in command.text()
    assert run.status("a")["reason"] == "out_of_memory"
    assert run.status("a")["out_of_memory"]["step"] == STEP + 1


def test_state_is_not_saved_in_the_middle_of_an_update(run):
    def before(_):
        original = torch.optim.AdamW.step

        def step(self, closure=None):
            result = original(self, closure)
            self.steps = getattr(self, "steps", 0) + 1
            if self.steps > STEP:
                raise MemoryError
            return result

        torch.optim.AdamW.step = step

    command = Command(*run.words("a"), before=before)
    assert command.wait() == [0], command.text()[-3000:]
    assert check_half_was_tried(run, "a")["from_step"] == STEP - 1


def test_launched_ranks_are_started_again_with_half_the_micro_batch(run):
    _, recipe, *words = run.words("a")
    words = ["launch", recipe, "--machine", "launch/accelerate/cpu-2-ddp.yaml", *words]
    command = Command(*words, environment=limited_interpreter(run.parent / "site", 40, STEP, 1))
    assert command.wait() == [0], command.text()[-3000:]
    assert "error: rank 1 on " in command.text()
    assert "starting again: nearfar launch --resume " in command.text()
    check_half_was_tried(run, "a")
    check_like_small_micro_batches(run, "a")
