"""Writes the batch script of a job.

Values reach the script as options of sbatch, whose characters are checked, or as variables of bash,
each quoted as one word. The code of the script is the same in every job.
"""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trainer.errors import BadJob
from trainer.slurm.profile import Profile

_CODE = Path(__file__).with_name("job.sh")
_JOB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_OPTION = re.compile(r"[A-Za-z0-9._@,:/=+&|*()\[\]%-]*")


@dataclass(frozen=True)
class BatchJob:
    """What a job runs on each of its nodes."""

    name: str
    nodes: int
    words: tuple[str, ...]
    """The words after `nearfar`. `launch` also gets the number of its node, and the address of the
    first one."""
    sweep: tuple[tuple[str, ...], ...] = ()
    """Further words for each task of an array; empty for a single job."""
    dependencies: tuple[str, ...] = ()
    """Numbers of the jobs that must succeed before."""
    folder: Path = field(default_factory=Path.cwd)
    """Folder in which the job runs."""


def render(job: BatchJob, profile: Profile) -> str:
    """Returns the batch script. Raises BadJob if a value cannot be written into a script."""
    _check(job)
    return "\n".join(
        [
            "#!/usr/bin/env bash",
            "# Written by `nearfar submit`. Submit it with `sbatch` in the folder below.",
            *(
                _option(name, value)
                for name, value in _options(job, profile).items()
                if value is not None
            ),
            "",
            *_variables(job, profile),
            "",
            _CODE.read_text(encoding="utf-8"),
        ]
    )


def _check(job: BatchJob) -> None:
    if not _JOB_NAME.fullmatch(job.name):
        raise BadJob(
            f"{job.name!r:.60} cannot be the name of a job; use at most 200 letters, digits and . _"
            " - only, e.g. --name my-run"
        )
    for number in job.dependencies:
        if not re.fullmatch(r"[0-9]{1,18}(_[0-9]{1,9})?", number):
            raise BadJob(f"--after {number!r:.60} is not the number of a job, e.g. --after 1234")
    for word in (str(job.folder), *job.words, *(word for words in job.sweep for word in words)):
        if not word.isprintable():
            raise BadJob(
                f"{word!r:.80} has a line break or another character that cannot be printed, so it"
                " cannot be written into a script; remove it"
            )


def _options(job: BatchJob, profile: Profile) -> Mapping[str, str | int | None]:
    """Returns the options of sbatch; those that are None are not given."""
    gpus = ":".join(filter(None, [profile.gpu_type, str(profile.gpus_per_node)]))
    log = f"{profile.log_folder}/%x-{'%A_%a' if job.sweep else '%j'}.out"
    return {
        "job-name": job.name,
        "account": profile.account,
        "partition": profile.partition,
        "qos": profile.qos,
        "reservation": profile.reservation,
        "constraint": profile.constraint,
        "nodes": job.nodes,
        "ntasks-per-node": 1,
        "gpus-per-node": gpus if profile.gpus_per_node else None,
        "cpus-per-task": profile.cpus_per_task,
        "mem": profile.memory,
        "exclusive": "" if profile.exclusive else None,
        "time": profile.time_limit,
        "signal": f"B:USR1@{profile.signal_seconds}",
        "requeue" if profile.requeue else "no-requeue": "",
        "output": log,
        "open-mode": "append",
        "array": f"0-{len(job.sweep) - 1}" if job.sweep else None,
        "dependency": ":".join(["afterok", *job.dependencies]) if job.dependencies else None,
        "kill-on-invalid-dep": "yes" if job.dependencies else None,
        **dict[str, str](profile.options.items()),
    }


def _option(name: str, value: str | int) -> str:
    """Returns a line for sbatch, which reads it without a shell and with quotes of its own."""
    if not _OPTION.fullmatch(str(value)):
        raise BadJob(f"{value!r:.60} cannot be the value of --{name} of sbatch")
    return f"#SBATCH --{name}={value}" if value != "" else f"#SBATCH --{name}"


def _variables(job: BatchJob, profile: Profile) -> Iterable[str]:
    """Yields the lines that set the variables of the script."""
    yield _variable("folder", str(job.folder))
    yield _variable("logs", str(job.folder / profile.log_folder))
    yield _variable("python", profile.python)
    yield _array("modules", profile.modules)
    yield _array("environment", [f"{name}={text}" for name, text in profile.environment.items()])
    yield _array("container", _container_options(job, profile))
    yield _variable("wait_seconds", str(profile.wait_seconds))
    yield _variable("max_requeues", str(profile.max_requeues if profile.requeue else 0))
    yield _array("words", job.words)
    if job.sweep:
        yield 'case "$SLURM_ARRAY_TASK_ID" in'
        for number, words in enumerate(job.sweep):
            yield f"{number}) {_array('words+', words)} ;;"
        yield "esac"


def _variable(name: str, value: str) -> str:
    return f"{name}={shlex.quote(value)}"


def _array(name: str, values: Sequence[str]) -> str:
    return f"{name}=({shlex.join(values)})"


def _container_options(job: BatchJob, profile: Profile) -> list[str]:
    """Returns the options with which srun starts the container (pyxis)."""
    if profile.container is None:
        return []
    folder = str(job.folder)
    if re.search("[:,]", folder):
        raise BadJob(f"a container cannot mount {folder}: its name has a colon or a comma; move it")
    mounts = ",".join([f"{folder}:{folder}", *profile.container.mounts])
    return [
        f"--container-image={profile.container.image}",
        f"--container-mounts={mounts}",
        f"--container-workdir={folder}",
    ]
