"""Ctrl-C against a real process: a real signal, a real training loop."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import pytorch_lightning as lightning

from trainer.runtime.stop import GracefulStop

TRAINING = """
import signal, sys, time, warnings
warnings.filterwarnings("ignore")
import torch
import pytorch_lightning as lightning
from trainer.runtime.stop import GracefulStop

class Slow(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
    def training_step(self, batch, number):
        print(f"step {number}", flush=True)
        until = time.monotonic() + STEP_SECONDS
        while time.monotonic() < until:
            time.sleep(0.01)
        return self.layer(batch).mean()
    def on_train_batch_end(self, *args):
        print("end of step", flush=True)
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

STEP_SECONDS = float(sys.argv[1])
stop = GracefulStop()
before = signal.getsignal(signal.SIGINT)
quiet = dict(logger=False, enable_progress_bar=False, enable_model_summary=False)
trainer = lightning.Trainer(max_epochs=1, enable_checkpointing=False, accelerator="cpu",
                            callbacks=[stop], **quiet)
trainer.fit(Slow(), torch.utils.data.DataLoader(torch.ones(1000, 1)))
assert signal.getsignal(signal.SIGINT) is before
print(f"steps {trainer.global_step} interrupted {stop.is_requested}", flush=True)
sys.exit(130 if stop.is_requested else 0)
"""


@pytest.fixture
def training(request):
    process = subprocess.Popen(
        [sys.executable, "-c", TRAINING, str(request.param)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    yield process
    process.kill()
    process.communicate()


def wait_for(process: subprocess.Popen[str], line: str) -> None:
    for read in process.stdout:
        if read.strip() == line:
            return
    raise AssertionError(f"{line!r} never came: {process.stderr.read()}")


@pytest.mark.parametrize("training", [0.5], indirect=True)
def test_r10_first_interrupt_ends_the_run_after_the_current_step(training):
    wait_for(training, "step 1")
    training.send_signal(signal.SIGINT)
    output, errors = training.communicate(timeout=60)
    lines = output.split("\n")
    assert "end of step" in lines, "the step in hand was torn"
    assert "steps 2 interrupted True" in lines, output + errors
    assert training.returncode == 130
    assert errors.count("stopping after this step; press again to quit immediately") == 1
    assert "Traceback" not in errors


@pytest.mark.parametrize("training", [60], indirect=True)
def test_r10_second_interrupt_ends_the_process_at_once(training):
    wait_for(training, "step 0")
    training.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert training.poll() is None, "the first interrupt must not kill"
    start = time.monotonic()
    training.send_signal(signal.SIGINT)
    output, errors = training.communicate(timeout=30)
    assert time.monotonic() - start < 5
    assert training.returncode == 130
    assert "end of step" not in output
    assert "Traceback" not in errors


def test_signals_are_not_handled_outside_the_main_thread():
    before = signal.getsignal(signal.SIGINT)
    stop = GracefulStop()
    trainer, module = (
        lightning.Trainer(accelerator="cpu", logger=False),
        lightning.LightningModule(),
    )
    thread = threading.Thread(target=lambda: stop.setup(trainer, module, "fit"))
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) is before
    stop.teardown(trainer, module, "fit")
    assert signal.getsignal(signal.SIGINT) is before
