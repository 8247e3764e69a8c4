"""What the tests of launching share: a recipe that trains in seconds, and a Slurm cluster of two
nodes on this machine.
"""

import getpass
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "sinfo")
SYSTEM_FOLDERS = ":/usr/sbin:/usr/local/sbin:/sbin"
START_SECONDS = 30


@pytest.fixture
def toy_run(toy_folder, tmp_path):
    """(arguments after the recipe's name, folder of the run that they lead to)."""
    pairs = tmp_path / "pairs.jsonl"
    objects, places = (
        ("disk", "storage account", "virtual machine", "database"),
        (
            "western",
            "eastern",
            "northern",
            "southern",
        ),
    )
    lines = [
        {
            "query": f"how do I {verb} a {thing} in the {place} region",
            "positive": f"{thing} {verb} --location {place}",
        }
        for verb in ("create", "delete", "list", "show")
        for thing in objects
        for place in places
    ]
    pairs.write_text("".join(json.dumps(line) + "\n" for line in lines))
    overrides = {
        "name": "toy",
        "output": tmp_path / "runs",
        "data.train": pairs,
        "data.validation_ratio": 0.25,
        "model.backbone": toy_folder("bert"),
        "optimization.batch_size": 8,
        "optimization.epochs": 1,
        "machine.precision": "fp32",
    }
    return [f"{key}={value}" for key, value in overrides.items()], tmp_path / "runs/toy"


@pytest.fixture(scope="module")
def slurm() -> Iterator[dict[str, str]]:
    """The environment in which `sbatch` and the others speak to a running cluster of two nodes; the
    test is skipped where Slurm is missing.
    """
    if missing := [
        program
        for program in PROGRAMS
        if shutil.which(program, path=os.environ["PATH"] + SYSTEM_FOLDERS) is None
    ]:
        pytest.skip(f"no {', '.join(missing)} here: apt-get install slurm-wlm munge")
    with slurm_cluster() as environment:
        yield environment


@contextmanager
def slurm_cluster() -> Iterator[dict[str, str]]:
    """The environment in which `sbatch` and the others speak to a running cluster of two nodes; it
    ends with the context.
    """
    with ExitStack() as stack:
        # Not pytest's folder: munge's socket must have a short path, and munged insists on a folder
        # that nobody else may write to.
        folder = Path(
            stack.enter_context(
                tempfile.TemporaryDirectory(prefix="slurm", ignore_cleanup_errors=True)
            )
        )
        folder.chmod(0o755)
        host = socket.gethostname().split(".")[0]
        text = (Path(__file__).parent / "slurm.conf").read_text()
        controller_port, first_port, second_port = _free_ports(3)
        (folder / "slurm.conf").write_text(
            text.format(
                host=host,
                folder=folder,
                user=getpass.getuser(),
                controller_port=controller_port,
                first_port=first_port,
                second_port=second_port,
            )
        )
        (folder / "state").mkdir()
        (folder / "munge.key").write_bytes(os.urandom(128))
        (folder / "munge.key").chmod(0o600)
        environment = os.environ | {
            "PATH": os.environ["PATH"] + SYSTEM_FOLDERS,
            "SLURM_CONF": str(folder / "slurm.conf"),
        }
        munge = [f"--{option}={folder}/munge.{end}" for option, end in _MUNGE_FILES.items()]
        stack.enter_context(
            _daemon(["munged", "--foreground", "--force", *munge], environment, folder)
        )
        _wait((folder / "munge.socket").exists, folder)  # the others end at once without it
        for command in (
            ["slurmctld", "-D", "-c"],
            ["slurmd", "-D", "-N", host],
            ["slurmd", "-D", "-N", f"{host}-second"],
        ):
            stack.enter_context(_daemon(command, environment, folder))
        _wait(
            lambda: (
                subprocess.run(
                    ["sinfo", "-h", "-N", "-o", "%T"], env=environment, capture_output=True
                ).stdout.split()
                == [b"idle"] * 2
            ),
            folder,
        )
        yield environment


_MUNGE_FILES = {
    "key-file": "key",
    "socket": "socket",
    "pid-file": "pid",
    "log-file": "log",
    "seed-file": "seed",
}


@contextmanager
def _daemon(command: list[str], environment: dict[str, str], folder: Path) -> Iterator[None]:
    with (folder / "daemons.log").open("ab") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(ready: Callable[[], bool], folder: Path) -> None:
    ends = time.monotonic() + START_SECONDS
    while not ready():
        if time.monotonic() > ends:
            logs = "\n".join(
                f"== {path.name}\n{path.read_text()[-1500:]}"
                for path in sorted(folder.glob("*.log"))
            )
            raise TimeoutError(f"Slurm was not up after {START_SECONDS} s\n{logs}")
        time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in sockets:
            listener.bind(("127.0.0.1", 0))
        return [int(listener.getsockname()[1]) for listener in sockets]
