"""`nearfar launch`: what it refuses before any rank is started, and how it ends when the ranks
do.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import forked
import pytest
import torch
import typer

from trainer.cli.launch import _Job, launch
from trainer.errors import BadMachine, BadRecipe
from trainer.strategies.launcher import rank_environment
from trainer.strategies.machine.plan import Plan

REPOSITORY = Path(__file__).parents[2]
RECIPE = Path("recipes/bi-encoder-lora.yaml")
TWO = "launch/accelerate/cpu-2-ddp.yaml"
RUN_RANKS = (
    "import sys; from trainer.strategies.launcher import run_ranks;"
    " sys.exit(run_ranks(sys.argv[1:]))"
)
WAIT_FOR_CTRL_C = """
import os, signal, sys, time
pressed = []
signal.signal(signal.SIGINT, lambda *_: pressed.append(True))
os.write(1, b"ready\\n")
while not pressed:
    time.sleep(0.05)
time.sleep(2)  # a step to its end
os.write(1, b"saved\\n")
sys.exit(130)
"""


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch):
    monkeypatch.chdir(REPOSITORY)


def launcher(program, *options, **more):
    """`accelerate launch` as our command runs it, with a program of our own."""
    command = [sys.executable, "-c", RUN_RANKS, "--config_file", TWO, *options, str(program)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **more,
    )


# ---------------------------------------------------------------- refused before anything is
# started


def test_mistake_ends_with_one_message_and_code_2(tmp_path):
    ended = nearfar_launch(RECIPE, "--machine", tmp_path / "none.yaml", f"output={tmp_path}")
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith("error: ")
    assert "none.yaml" in ended.stderr


def test_unknown_strategy_is_refused(tmp_path):
    (tmp_path / "m.yaml").write_text(
        "distributed_type: MEGATRON_LM\nnum_machines: 1\nnum_processes: 2\nuse_cpu: true\n"
    )
    with pytest.raises(BadMachine, match="MEGATRON_LM"):
        launch(RECIPE, tmp_path / "m.yaml", [f"output={tmp_path}"])


def test_key_unknown_to_accelerate_is_refused(tmp_path):
    (tmp_path / "m.yaml").write_text(Path(TWO).read_text() + "same_netwrok: true\n")
    with pytest.raises(BadMachine, match=r"same_netwrok"):
        launch(RECIPE, tmp_path / "m.yaml", [f"output={tmp_path}"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("name", ["gpu-1", "zero3-offload"])
def test_gpu_file_on_a_machine_without_gpus_is_refused(name, tmp_path):
    with pytest.raises(BadMachine, match="GPU"):
        launch(RECIPE, Path(f"launch/accelerate/{name}.yaml"), [f"output={tmp_path}"])


def test_batch_that_the_ranks_cannot_share_is_refused(tmp_path):
    with pytest.raises(BadRecipe, match=r"batch_size=63 .* 2 equal parts"):
        launch(RECIPE, Path(TWO), ["optimization.batch_size=63", f"output={tmp_path}"])
    with pytest.raises(BadRecipe, match=r"batch_size=66 .* 4 equal parts"):
        launch(
            RECIPE,
            Path(TWO),
            ["optimization.batch_size=66", f"output={tmp_path}"],
            nodes=2,
            node_rank=0,
            main_address="a",
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nodes": 2}, "start this on each of them, with --node-rank 0 to 1 and --main-address"),
        ({"nodes": 2, "node_rank": 0}, "--main-address"),
        ({"nodes": 2, "node_rank": 2, "main_address": "a"}, "--node-rank 2 of 2 nodes"),
        ({"node_rank": 1, "main_address": "a"}, "give their number with --nodes"),
        ({"nodes": 2, "node_rank": 0, "main_address": "a:b"}, "--main-address a:b is not"),
        ({"nodes": 2, "node_rank": 0, "main_address": "a:0"}, "--main-address a:0 is not"),
    ],
)
def test_nodes_without_an_address_are_refused(options, message, tmp_path):
    with pytest.raises(BadMachine, match=message):
        launch(RECIPE, Path(TWO), [f"output={tmp_path}"], **options)


def test_single_process_on_two_nodes_is_refused(tmp_path):
    with pytest.raises(BadMachine, match="one process, which cannot be on 2 nodes"):
        launch(RECIPE, Path("launch/accelerate/cpu-1.yaml"), [f"output={tmp_path}"], nodes=2)


def nearfar_launch(*words):
    return forked.nearfar("launch", *words)


def test_unknown_option_is_refused():
    ended = nearfar_launch(RECIPE, "--machine", TWO, "--replce")
    assert ended.returncode == 2
    assert "No such option: --replce" in ended.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["MODEL", "pairs.jsonl"], "Missing option '-o' / '--out'"),
        (["MODEL", "pairs.jsonl", "-o", "mined", "--negtives", "3"], "No such option: --negtives"),
        (["/nowhere", "pairs.jsonl", "-o", "mined"], "/nowhere"),
    ],
)
def test_mistakes_in_mining_are_answered_before_a_rank_is_started(words, said, toy_folder):
    ended = nearfar_launch(
        "--machine",
        TWO,
        "mine",
        *(toy_folder("bert") if word == "MODEL" else word for word in words),
    )
    assert ended.returncode == 2
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


# ---------------------------------------------------------------- mining


@pytest.mark.parametrize("machine", ["cpu-1", "cpu-2-ddp"])
def test_mining_on_ranks_writes_the_bytes_of_one_process(machine, toy_folder, tmp_path):
    pairs = [
        {"query": f"{verb} a {thing}", "positive": f"how to {verb} one {thing}"}
        for verb in ("delete", "create", "list", "show")
        for thing in ("disk", "database", "machine")
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in pairs))
    words = [
        "mine",
        toy_folder("bert"),
        tmp_path / "pairs.jsonl",
        "--negatives",
        "2",
        "--percent-of-positive",
        "0",
        "--min-score",
        "-5",
    ]
    assert forked.nearfar(*words, "-o", tmp_path / "one").returncode == 0
    words += ["-o", tmp_path / "launched"]
    ended = nearfar_launch(*words[:3], "--machine", f"launch/accelerate/{machine}.yaml", *words[3:])
    assert ended.returncode == 0, ended.stderr
    assert (
        (tmp_path / "launched" / "train.jsonl").read_bytes()
        == (tmp_path / "one" / "train.jsonl").read_bytes()
        != b""
    )
    assert (
        "already holds the finished job"
        in nearfar_launch("--machine", f"launch/accelerate/{machine}.yaml", *words).stderr
    )
    assert (
        "already holds the finished job"
        not in nearfar_launch(
            "--machine", f"launch/accelerate/{machine}.yaml", *words, "--replace"
        ).stderr
    )


# ---------------------------------------------------------------- what accelerate is told


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, ["--num_processes", "2", "--num_machines", "1"]),
        (
            {"nodes": 3, "node_rank": 1, "main_address": "head:1234"},
            [
                "--num_processes",
                "6",
                "--num_machines",
                "3",
                "--machine_rank",
                "1",
                "--main_process_ip",
                "head",
                "--main_process_port",
                "1234",
                "--deepspeed_multinode_launcher",
                "standard",
                "--same_network",
            ],
        ),
    ],
)
def test_accelerate_gets_the_ranks_and_their_address(options, told, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "trainer.strategies.launcher.run_ranks", lambda arguments: seen.extend(arguments) or 7
    )
    monkeypatch.setattr("os.environ", os.environ | {"OMP_NUM_THREADS": "1"})
    with pytest.raises(typer.Exit) as ended:
        launch(
            RECIPE,
            Path(TWO),
            ["optimization.batch_size=66", f"output={tmp_path}"],
            replace=True,
            **options,
        )
    fit = [
        "--module",
        "trainer",
        "fit",
        str(RECIPE),
        "optimization.batch_size=66",
        f"output={tmp_path}",
        "--replace",
    ]
    assert seen == ["--config_file", TWO, *told, *fit]
    assert ended.value.exit_code == 7
    assert os.environ["ACCELERATE_USE_CPU"] == "True"


def test_file_for_several_processes_runs_ddp_with_one_per_node(tmp_path, monkeypatch):
    (tmp_path / "m.yaml").write_text(
        Path(TWO).read_text().replace("num_processes: 2", "num_processes: 1")
    )
    seen = []
    monkeypatch.setattr(
        "trainer.strategies.launcher.run_ranks", lambda arguments: seen.extend(arguments) or 0
    )
    monkeypatch.setattr("os.environ", os.environ | {"OMP_NUM_THREADS": "1"})
    with pytest.raises(typer.Exit):
        launch(
            RECIPE,
            tmp_path / "m.yaml",
            [f"output={tmp_path}"],
            nodes=2,
            node_rank=0,
            main_address="a",
        )
    assert seen[2:6] == ["--num_processes", "2", "--num_machines", "2"]


COUNT_THREADS = """
import os
from tokenizers import Tokenizer, models
tokenizer = Tokenizer(models.WordLevel({"a": 0}, "a"))
before = len(os.listdir("/proc/self/task"))
tokenizer.encode_batch(["a"] * 1000)
print(len(os.listdir("/proc/self/task")) - before)
"""


def test_cores_are_shared_out_among_ranks(monkeypatch):
    monkeypatch.setattr("trainer.strategies.launcher._cores", lambda: 12)
    environ = rank_environment(Plan("ddp", 8, 2, 4), {"OMP_NUM_THREADS": "1"})
    assert (environ["OMP_NUM_THREADS"], environ["RAYON_NUM_THREADS"]) == ("1", "3")
    for threads in ("3", "5"):
        counted = subprocess.run(
            [sys.executable, "-c", COUNT_THREADS],
            env={"RAYON_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
        )
        assert counted.stdout.strip() == threads


# ---------------------------------------------------------------- how it ends


@pytest.mark.parametrize(
    ("program", "code"),
    [("pass", 0), ("raise SystemExit(86)", 86), ("import os; os.kill(os.getpid(), 9)", 137)],
)
def test_launch_ends_with_the_code_of_the_ranks(program, code, tmp_path):
    (tmp_path / "program.py").write_text(program)
    with launcher(tmp_path / "program.py") as running:
        output, errors = running.communicate(timeout=120)
    assert running.returncode == code, errors
    assert "Traceback" not in errors
    assert output == ""


@pytest.mark.parametrize("presses", [1, 2])
def test_first_ctrl_c_lets_the_ranks_finish_and_the_second_ends_them(presses, tmp_path):
    (tmp_path / "program.py").write_text(WAIT_FOR_CTRL_C)
    with launcher(tmp_path / "program.py") as running:
        assert [running.stdout.readline(), running.stdout.readline()] == ["ready\n"] * 2
        for press in range(presses):
            os.killpg(running.pid, signal.SIGINT)  # as a terminal does
            if press + 1 < presses:
                time.sleep(1)
        output, errors = running.communicate(timeout=60)
    assert running.returncode == 130, errors
    assert "Traceback" not in errors
    assert output.split() == (["saved", "saved"] if presses == 1 else [])


@pytest.mark.parametrize(("recorded", "code"), [(85, 85), (0, 1)])
def test_failed_launcher_never_ends_with_0(recorded, code, tmp_path):
    """A run that failed after it was done, e.g. while its report was written, has failed."""
    begin = time.time()
    (tmp_path / "status.json").write_text(json.dumps({"exit_code": recorded}))
    job = _Job(["fit"], check=lambda plan: None, run_alone=lambda: None, folder=tmp_path)
    assert job.exit_code(1, job.status(begin)) == code
