"""R07 to R10, R35, R39: a signal to one rank stops all ranks at the same step, with a checkpoint
and exit code 85.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from killable import REPOSITORY, Command, Run


@pytest.fixture
def run(tmp_path, toy_folder):
    return Run(tmp_path, toy_folder("bert"), "bi-encoder-full", "optimization.max_steps=400")


def latest_step(run, name):
    return int((run.path(name) / "checkpoints/latest").resolve().name.removeprefix("step-"))


@pytest.mark.parametrize("ranks", [1, 4])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_signal_to_one_rank_stops_all_ranks(run, number, ranks):
    if ranks == 4 and number != signal.SIGTERM:
        ranks = 2  # quicker; the signals differ only in how they are received
    command = Command(*run.words("a"), ranks=ranks)
    run.wait_for_step(command, "a", 6)
    steps_at_signal = len(run.losses("a"))
    command.send(number, rank=ranks - 1)
    assert command.wait() == [85] * ranks, command.text()[-3000:]
    steps = len(run.losses("a"))
    assert steps == latest_step(run, "a")
    # The log is read before the signal is sent, and the thread needs a moment to pass it on.
    assert steps - steps_at_signal < 60
    status = run.status("a")
    assert (status["status"], status["exit_code"]) == ("preempted", 85)
    assert command.text().count("stopped: ") == 1
    assert "Traceback" not in command.text()


def test_second_signal_during_the_save_tears_nothing(run):
    command = Command(*run.words("a"))
    run.wait_for_step(command, "a", 6)
    for _ in range(40):
        command.send(signal.SIGTERM)
        time.sleep(0.005)
    assert command.wait() == [85]
    assert not [*(run.path("a") / "checkpoints").glob(".*.partial")]
    command = Command(*run.words("a", "--resume"))
    run.wait_for_step(command, "a", latest_step(run, "a") + 2)
    command.send(signal.SIGKILL)


def test_interrupt_saves_the_model_and_the_run_can_go_on(run):
    command = Command(*run.words("a"), ranks=2)
    run.wait_for_step(command, "a", 6)
    command.send(signal.SIGINT)
    assert command.wait() == [130, 130], command.text()[-3000:]
    assert (run.path("a") / "model/model.safetensors").is_file()
    assert run.status("a")["status"] == "stopped"
    validated = [record["step"] for record in run.log("a") if "validation/ndcg@10" in record]
    assert validated[-1] == len(run.losses("a")) - 1, "the last weights were not validated"
    step = latest_step(run, "a")
    command = Command(*run.words("a", "--resume"))
    run.wait_for_step(command, "a", step + 3)
    command.send(signal.SIGTERM)
    assert command.wait() == [85]


def test_interrupt_on_ranks_lets_a_long_validation_end(run):
    """The other ranks tell of the request for as long as the validation takes."""

    def slow(rank):
        from trainer.modules.retriever import Retriever

        original = Retriever.validation_step

        def step(self, *arguments):
            time.sleep(4 if self.global_step else 0)
            return original(self, *arguments)

        Retriever.validation_step = step

    words = ["validation.every_steps=1000"]
    command = Command(*run.words("a", *words), ranks=2, before=slow)
    run.wait_for_step(command, "a", 6)
    command.send(signal.SIGINT)
    assert command.wait() == [130, 130], command.text()[-3000:]
    validated = [record["step"] for record in run.log("a") if "validation/ndcg@10" in record]
    assert validated[-1] == len(run.losses("a")) - 1, "the last weights were not validated"


def test_second_interrupt_ends_the_process_at_once(run):
    def hang(rank):
        from trainer.modules.retriever import Retriever

        Retriever.training_step = lambda *_: time.sleep(60)

    command = Command(*run.words("a"), before=hang)
    command.wait_for(lambda: "validation" in command.text() or "training" in command.text())
    time.sleep(2)
    command.send(signal.SIGINT)
    time.sleep(1)
    assert command.is_alive(), "the first interrupt must not kill"
    command.send(signal.SIGINT)
    assert command.wait(seconds=5) == [130]


def test_signal_while_test_queries_are_measured_stops_the_run(run):
    def slow(rank):
        from trainer.retrieval.encoding import encode

        original = encode.own_micro_batches

        def slow_micro_batches(*arguments, **keywords):
            for item in original(*arguments, **keywords):
                time.sleep(1)
                yield item

        encode.own_micro_batches = slow_micro_batches

    command = Command(*run.words("a", "machine.micro_batch_tokens=32"), before=slow)
    command.wait_for(lambda: "steps of 8 queries" in command.text())
    time.sleep(3)
    start = time.monotonic()
    command.send(signal.SIGTERM)
    assert command.wait() == [85], command.text()[-3000:]
    assert time.monotonic() - start < 10


def test_signal_during_validation_stops_before_its_end(run):
    def slow(rank):
        from trainer.retrieval.encoding import encode

        original = encode.own_micro_batches

        def slow_micro_batches(*arguments, **keywords):
            for item in original(*arguments, **keywords):
                if (run.path("a") / "slow").exists():
                    time.sleep(0.5)
                yield item

        encode.own_micro_batches = slow_micro_batches

    words = ["optimization.max_steps=12", "validation.every_steps=6"]
    assert Command(*run.words("whole", *words)).wait() == [0]
    command = Command(*run.words("a", *words), ranks=2, before=slow)
    run.wait_for_step(command, "a", 2)
    (run.path("a") / "slow").touch()
    run.wait_for_step(command, "a", 5)
    time.sleep(1)
    command.send(signal.SIGTERM, rank=1)
    assert command.wait() == [85, 85], command.text()[-3000:]
    assert latest_step(run, "a") == 6
    (run.path("a") / "slow").unlink()
    command = Command(*run.words("a", "--resume", *words))
    assert command.wait() == [0]
    scores = [r["validation/ndcg@10"] for r in run.log("a") if "validation/ndcg@10" in r]
    expected = [r["validation/ndcg@10"] for r in run.log("whole") if "validation/ndcg@10" in r]
    assert scores == pytest.approx(expected, abs=1e-3)


def test_rank_without_its_launcher_ends_by_itself(run, tmp_path):
    """R35: the parent of the ranks is killed with -9."""
    import multiprocessing

    context = multiprocessing.get_context("fork")

    def launch():
        command = Command(*run.words("a"), ranks=2)
        (tmp_path / "ids").write_text(" ".join(str(p.pid) for p in command.processes))
        time.sleep(600)

    launcher = context.Process(target=launch)
    launcher.start()
    log = run.path("a") / "log.jsonl"
    ends = time.monotonic() + 60
    while not (log.exists() and '"step": 6,' in log.read_text()):
        assert time.monotonic() < ends
        time.sleep(0.05)
    os.kill(launcher.pid, signal.SIGKILL)
    launcher.join()
    ids = list(map(int, (tmp_path / "ids").read_text().split()))
    ends = time.monotonic() + 30
    while any(_is_running(process) for process in ids):
        assert time.monotonic() < ends, "the ranks train on as orphans"
        time.sleep(0.1)
    assert run.status("a")["exit_code"] == 85
    assert latest_step(run, "a") == len(run.losses("a"))


def _is_running(process: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


def test_signal_while_the_process_ends_does_not_change_its_code(run):
    """Slurm starts a job again by its code, and sends more than one signal."""
    command = [sys.executable, "-m", "trainer", *map(str, run.words("a"))]
    with subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if line.startswith("validation at step 5"):
                process.send_signal(signal.SIGTERM)
            if line.startswith("stopped:"):
                break
        time.sleep(0.05)
        while process.poll() is None:
            process.send_signal(signal.SIGUSR1)
            time.sleep(0.002)
    assert process.returncode == 85


STOPPED_CHILD = """#!/bin/sh
trap 'echo got TERM; exit 85' TERM
echo started "$@"
while :; do sleep 0.02; done
"""


def test_signal_to_a_sweep_is_forwarded_to_its_run(run, tmp_path):
    """What a real run does with the signal is tested above; it would take ten seconds to start."""
    child = tmp_path / "python"
    child.write_text(STOPPED_CHILD)
    child.chmod(0o755)

    def before(rank):
        sys.executable = str(child)

    command = Command(*run.words("a", "--sweep", "seed=1,2"), before=before)
    command.wait_for(lambda: "started" in command.text())
    command.send(signal.SIGTERM)
    assert command.wait() == [85], command.text()[-3000:]
    assert command.text().count("got TERM") == 1
    assert "run 2 of 2" not in command.text()
    assert "the sweep was stopped" in command.text()
