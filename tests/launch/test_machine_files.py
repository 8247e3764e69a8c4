"""Every file of launch/: accelerate takes it, we read it as what its name says, and those for CPUs
really start their ranks.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file

from trainer.strategies.launcher import PORT, plan_launch
from trainer.strategies.machine.machine_file import plan_from_file

LAUNCH = Path(__file__).parents[2] / "launch"
FILES = sorted((LAUNCH / "accelerate").glob("*.yaml"))
CPU_FILES = [file for file in FILES if file.stem.startswith("cpu-")]
WHOLE_MACHINE = [
    LAUNCH / f"accelerate/{kind}.yaml" for kind in ("ddp", "fsdp2", "zero1", "zero2", "zero3")
]
PRINT_PLAN = """
import os
from trainer.strategies.machine.environment import plan_from_environment
rank, ranks = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
line = f"rank {rank} of {ranks}: {plan_from_environment(os.environ)}"
os.write(1, f"{line}\\n".encode())  # in one piece: ranks share the pipe
"""


def expected(file):
    """(kind, ranks) by the name of a file: cpu-2-zero3, gpu-1; a bare kind is all of the
    machine.
    """
    parts = re.fullmatch(r"(?:cpu|gpu)-(\d)-?(.*)", file.stem)
    if parts:
        return parts[2] or "single", int(parts[1])
    ranks = torch.cuda.device_count() or torch._utils.cpu_count()
    return file.stem.removesuffix("-offload"), ranks


def test_promised_files_exist():
    kinds = ("ddp", "fsdp2", "zero1", "zero2", "zero3")
    promised = {"cpu-1", "gpu-1", "zero3-offload", *kinds, *(f"cpu-2-{kind}" for kind in kinds)}
    assert {file.stem for file in FILES} == promised


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_file_is_what_its_name_says(file, monkeypatch):
    monkeypatch.chdir(LAUNCH.parent)  # a DeepSpeed file is named from there
    load_config_from_file(str(file))
    plan = plan_from_file(file)
    kind, ranks = expected(file)
    assert (plan.kind, plan.ranks, plan.nodes) == (kind if ranks > 1 else "single", ranks, 1)
    assert plan.accelerator == (
        None if file in WHOLE_MACHINE else "cpu" if file in CPU_FILES else "cuda"
    )
    assert plan.precision is None
    if plan.deepspeed is not None:
        assert ("offload_param" in plan.deepspeed["zero_optimization"]) == file.stem.endswith(
            "-offload"
        )


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_file_says_how_to_run_it(file):
    first, *_ = text = file.read_text().splitlines()
    assert first.startswith("# ")
    commands = [line for line in text if line.startswith("#   ")]
    assert len(commands) == (2 if file.stem.startswith(("cpu-", "gpu-")) else 4)
    assert all(f" launch/accelerate/{file.name} " in line for line in commands)


@pytest.mark.parametrize("nodes", [2, 8])
@pytest.mark.parametrize("file", WHOLE_MACHINE, ids=lambda file: file.stem)
def test_file_of_one_machine_is_for_several(file, nodes, monkeypatch):
    monkeypatch.chdir(LAUNCH.parent)
    start = plan_launch(file, nodes=nodes, node_rank=1, main_address="head")
    kind, ranks = expected(file)
    assert (start.plan.kind, start.plan.ranks) == (kind, nodes * ranks)
    assert (start.plan.nodes, start.host, start.port) == (nodes, "head", PORT)


@pytest.mark.parametrize(
    "file", [file for file in FILES if "fsdp2" in file.stem], ids=lambda file: file.stem
)
def test_every_rank_loads_the_weights(file):
    """accelerate's default would make transformers give empty weights to every rank but the
    first.
    """
    assert (
        yaml.safe_load(file.read_text())["fsdp_config"]["fsdp_cpu_ram_efficient_loading"] is False
    )


def test_every_deepspeed_file_is_used():
    there = {f"launch/deepspeed/{file.name}" for file in (LAUNCH / "deepspeed").iterdir()}
    named = {
        yaml.safe_load(file.read_text()).get("deepspeed_config", {}).get("deepspeed_config_file")
        for file in FILES
    }
    assert there == named - {None}
    assert all(json.loads((LAUNCH.parent / name).read_text()) for name in there)


@pytest.mark.parametrize(
    "file",
    [*CPU_FILES, *(file for file in WHOLE_MACHINE if file.stem in ("ddp", "zero2"))],
    ids=lambda file: file.stem,
)
def test_accelerate_starts_the_ranks_of_the_file(file, tmp_path):
    program = tmp_path / "print_plan.py"
    program.write_text(PRINT_PLAN)
    ended = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", "--config_file", file, program],
        cwd=LAUNCH.parent,
        env=os.environ | {"PYTHONPATH": str(LAUNCH.parent)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    plan = plan_from_file(file)
    said = [
        line for line in ended.stdout.splitlines() if line.startswith("rank ")
    ]  # DeepSpeed has more to say
    assert sorted(said) == [f"rank {rank} of {plan.ranks}: {plan}" for rank in range(plan.ranks)]
