"""A machine file that cannot be used here, launched all the same: one message, exit code 2 on every
rank, nobody waits.
"""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from killable import Command, Run

FILES = {
    "for GPUs on a machine without any": (
        {"distributed_type": "MULTI_GPU", "use_cpu": False},
        "PyTorch finds none on this machine",
    ),
    "accumulation": (
        {
            "distributed_type": "DEEPSPEED",
            "use_cpu": True,
            "deepspeed_config": {"zero_stage": 2, "gradient_accumulation_steps": 2},
        },
        "gradient_accumulation_steps is 2",
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_launch_is_refused_with_one_message_and_exit_code_2(repository, tmp_path, case):
    settings, message = FILES[case]
    if settings["use_cpu"] is False and torch.cuda.is_available():
        pytest.skip("this machine has GPUs")
    file = tmp_path / "machine.yaml"
    file.write_text(
        yaml.safe_dump(
            settings
            | {
                "num_machines": 1,
                "num_processes": 2,
                "main_process_port": 0,
                "mixed_precision": "no",
            }
        ),
        encoding="utf-8",
    )
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        str(file),
        "-m",
        "trainer",
        "fit",
        "recipes/quickstart.yaml",
    ]
    done = subprocess.run(
        [*command, f"output={tmp_path}"],
        cwd=repository,
        env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    printed = done.stdout + done.stderr
    assert printed.count(message) == 1, printed[-3000:]
    assert "exitcode  : 2" in printed, (
        "what the launcher says of its processes; it ends with 1 itself"
    )
    assert done.returncode != 0
    assert not (tmp_path / "quickstart").exists()


def test_rank_that_begins_late_does_not_repeat_the_refusal(tmp_path, toy_folder):
    """The launcher has asked it to end by then."""

    def before(rank):
        from trainer.build import hardware

        original = hardware.on_machine

        def on_machine(*arguments):
            if rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(1)  # the signal is noticed on a thread
            return original(*arguments)

        hardware.on_machine = on_machine

    run = Run(tmp_path, toy_folder("bert"), "bi-encoder-full", "machine.compile_layers=true")
    command = Command(*run.words("a"), ranks=2, strategy="fsdp2", before=before)
    assert command.wait() == [2, 2], command.text()[-3000:]
    assert command.text().count("never tried under fsdp2") == 1
