"""S08: what a profile, a recipe or a path says is data in the batch script of a job, never code.

A value is refused by the check of its field, or reaches the nodes as one word. Quoting alone must
also hold, for values that no check has seen.
"""

import os
import random
import re
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from trainer.errors import BadJob
from trainer.slurm.profile import Container, Profile
from trainer.slurm.script import BatchJob, _array, render
from trainer.slurm.submit import check_script
from trainer.slurm.values import OneLine, Program

VALUES = 10_000
SCRIPTS = 100
CANARY = "canary"
PIECES = [
    f"$(touch {CANARY})", f"`touch {CANARY}`", f"; touch {CANARY};", f"& touch {CANARY} &",
    f"| touch {CANARY}", f"\ntouch {CANARY}\n", f"'; touch {CANARY}; '", f'"; touch {CANARY}; "',
    f"<(touch {CANARY})", f"${{x:=$(touch {CANARY})}}", f")\ntouch {CANARY}\nx=(", f"> {CANARY}",
    f"a[$(touch {CANARY})]", "\n#SBATCH --wrap=x\n", "\nEOF\n", "'", '"', "\\", "\\'", "$'", "$",
    "#", " #", "!", "!!", "*", "?", "[a]", "{a,b}", "~", "~root", "$HOME", "${IFS}", "$IFS", " ",
    "\t", "\r", "\n", "--", "-", "=", "%j", "%", ";;", "esac", "(", ")", "<<X", "&&", "||", "..",
    "/", ":", ",", "a", "Z", "0", "é", "中", "“", "\u2028", "\u202e", "\x1b[2J", "\x7f", "\ufeff",
]  # fmt: skip
HEADER = [
    "account", "partition", "qos", "reservation", "constraint", "gpu_type", "memory", "time_limit",
    "log_folder", "options", "name", "after",
]  # fmt: skip
"""Values that sbatch reads; all others are variables of the script."""
SAFE_LINE = re.compile(r"#SBATCH --[a-z-]+(=[A-Za-z0-9._@,:/=+&|*()\[\]%-]+)?")

PROGRAMS = {
    "srun": """#!/usr/bin/env bash
printf '%s\\0' "$@" >"$RECORD.srun"
while [[ $1 != env ]]; do shift; done
exec "$@"
""",
    "python": """#!/usr/bin/env bash
printf '%s\\0' "$@" >"$RECORD.python"
env --null >"$RECORD.env"
""",
    "scontrol": "#!/bin/sh\necho node1\n",
}
"""Programs that stand for Slurm's and for Python. They write down the words that they get."""


@pytest.fixture(scope="module")
def values() -> list[str]:
    numbers = random.Random(8)
    return ["".join(numbers.choices(PIECES, k=numbers.randint(1, 6))) for _ in range(VALUES)]


def header_of(field: str, value: str) -> list[str]:
    """The options of sbatch of a job with this value. Raises if it is refused."""
    options: dict[str, Any] = {"gpus_per_node": 1, "signal_seconds": 30}
    job = BatchJob("x", 1, ())
    match field:
        case "name":
            job = replace(job, name=value)
        case "after":
            job = replace(job, dependencies=(value,))
        case "options":
            options[field] = {"comment": value}
        case _:
            options[field] = value
    lines = render(job, Profile(**options)).split("\n")
    return lines[2 : lines.index("")]


def test_options_of_sbatch_are_safe_or_refused(values: list[str]) -> None:
    refused = 0
    for number, value in enumerate(values):
        field = HEADER[number % len(HEADER)]
        try:
            header = header_of(field, value)
        except (ValidationError, BadJob):
            refused += 1
            continue
        assert value in "".join(header)
        assert all(map(SAFE_LINE.fullmatch, header)), header
    assert refused > VALUES / 2


def test_values_without_a_check_cannot_leave_an_option() -> None:
    """The last line of defence, if the check of a field had a hole."""
    for value in ("a b", "a\n#SBATCH --wrap=x", "a#b", "a'b", 'a"b', "a\\b", "$(x)", "a;b"):
        profile = Profile.model_construct(**(dict(Profile()) | {"account": value}))
        with pytest.raises(BadJob):
            render(BatchJob("x", 1, ()), profile)


def test_quoting_alone_keeps_each_value_one_word(values: list[str], tmp_path: Path) -> None:
    """Also with the line breaks that the checks refuse."""
    script = f"""{_array("words", values)}\nprintf '%s\\0' "${{words[@]}}"\n"""
    bash = subprocess.run(["bash"], input=script.encode(), capture_output=True, cwd=tmp_path)
    assert bash.stdout.decode().split("\0")[:-1] == values
    assert not list(tmp_path.iterdir())


def accepted(type_: Any, value: str) -> bool:
    try:
        TypeAdapter(type_).validate_python(value)
    except ValidationError:
        return False
    return True


@dataclass
class Case:
    """One script with many values, and the words that must arrive."""

    script: str
    folder: Path
    srun_words: list[str]
    python_words: list[str]
    variables: list[str]


def make_case(values: list[str], root: Path, python: str) -> Case:
    """A job whose folder, image, mounts, environment and words are these values."""
    names = [
        value for value in values if "/" not in value and ":" not in value and "," not in value
    ]
    folder = root / f"folder{names[0]}"
    folder.mkdir()
    image = next(value for value in values if accepted(Program, value))
    mounts = [f"/{name}:/{name}" for name in names[:5]]
    environment = {f"NAME_{number}": value for number, value in enumerate(values[::2])}
    words, last = tuple(values[1::2]), (values[0], values[1])
    container = Container(image=image, mounts=tuple(mounts))
    profile = Profile(environment=environment, container=container, python=python)
    variables = [f"{name}={value}" for name, value in environment.items()]
    return Case(
        render(BatchJob("x", 1, ("launch", *words), sweep=((), last), folder=folder), profile),
        folder,
        [f"--container-image={image}", f"--container-mounts={folder}:{folder},{','.join(mounts)}"],
        ["-m", "trainer", "launch", "--node-rank", "0", *words, *last],
        variables,
    )


def recorded(path: Path) -> list[str]:
    return path.read_bytes().decode().split("\0")[:-1]


def test_values_are_single_words_on_the_nodes(values: list[str], tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for name, text in PROGRAMS.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    printable = [value for value in values if accepted(OneLine, value)]
    assert len(printable) > VALUES / 2
    for number in range(SCRIPTS):
        root = tmp_path / str(number)
        root.mkdir()
        python = root / f"{number} $(touch {CANARY});'python"
        python.symlink_to(tmp_path / "bin/python")
        case = make_case(printable[number::SCRIPTS], root, str(python))
        check_script(case.script)
        environment = {
            "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
            "RECORD": str(root / "record"),
            "SLURM_JOB_ID": "7",
            "SLURM_ARRAY_JOB_ID": "7",
            "SLURM_ARRAY_TASK_ID": "1",
            "SLURM_NNODES": "1",
            "SLURM_NODEID": "0",
            "SLURM_JOB_NODELIST": "node1",
        }
        bash = subprocess.run(
            ["bash"], input=case.script, env=environment, cwd=root, capture_output=True, text=True
        )
        assert bash.returncode == 0, bash.stderr
        assert set(case.srun_words) <= set(recorded(root / "record.srun"))
        arrived = recorded(root / "record.python")
        assert arrived[:5] + arrived[9:] == case.python_words
        assert set(case.variables) <= set(recorded(root / "record.env"))
        assert list(case.folder.iterdir()) == []
    assert not list(tmp_path.rglob(CANARY))
