"""Reads the profile of a cluster: what a job asks of Slurm, and how Python is found on a node."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, PositiveInt, model_validator

from trainer.errors import BadJob
from trainer.recipe.raw_recipe import RawRecipe, short_text
from trainer.recipe.schema.section import NonNegativeInt, Section
from trainer.recipe.section_problems import validate_file
from trainer.recipe.yaml_text import parse, parse_word, read_text
from trainer.slurm.values import (
    Constraint,
    LogFolder,
    Memory,
    Module,
    Mount,
    OneLine,
    OptionName,
    OptionValue,
    Program,
    TimeLimit,
    VariableName,
    Word,
    time_limit_seconds,
)


class Container(Section):
    """The container of every node, started by Slurm itself (pyxis with enroot)."""

    image: Program = Field(description="file or address of the image, e.g. /images/nearfar.sqsh")
    mounts: tuple[Mount, ...] = Field(
        (), description="folders that the container sees besides the one of the job"
    )


class Profile(Section):
    """What a job asks of Slurm, and how its nodes find Python."""

    account: Word | None = Field(None, description="account that is charged")
    partition: Word | None = Field(None, description="partition, or several with commas")
    qos: Word | None = Field(None, description="quality of service")
    reservation: Word | None = Field(None, description="reservation")
    constraint: Constraint | None = Field(None, description="features that each node must have")
    gpus_per_node: NonNegativeInt = Field(0, description="GPUs of each node")
    gpu_type: Word | None = Field(None, description="kind of GPU, as the cluster names it")
    cpus_per_task: PositiveInt | None = Field(
        None, description="CPU cores of each node; null: as the cluster has it"
    )
    memory: Memory | None = Field(None, description="memory of each node; 0: all of it")
    time_limit: TimeLimit = Field("24:00:00", description="time after which Slurm ends the job")
    exclusive: bool = Field(False, description="no other job on these nodes")
    log_folder: LogFolder = Field("logs", description="folder of the output of jobs")
    python: Program = Field(".venv/bin/python", description="the Python that has nearfar")
    modules: tuple[Module, ...] = Field((), description="software modules to load")
    environment: dict[VariableName, OneLine] = Field(
        {}, description="variables of every process; values are taken literally"
    )
    container: Container | None = Field(None, description="container of every node")
    options: dict[OptionName, OptionValue] = Field(
        {}, description="further options of sbatch by name, such as mail-user"
    )
    signal_seconds: Annotated[int, Field(ge=30, le=65535)] = Field(
        300,
        description="seconds before the time limit at which the run saves and ends; more than a"
        " step and a save take",
    )
    requeue: bool = Field(True, description="start the job again after a preemption or time limit")
    max_requeues: NonNegativeInt = Field(100, description="how often a job is started again")
    wait_seconds: PositiveInt = Field(
        60, description="seconds that other nodes may go on after one has failed"
    )

    @model_validator(mode="after")
    def _check_times(self) -> "Profile":
        if self.signal_seconds >= time_limit_seconds(self.time_limit):
            raise ValueError(
                f"signal_seconds: {self.signal_seconds} is not less than time_limit"
                f" {self.time_limit}; nothing could run before the signal"
            )
        return self


def load_profile(path: Path, changes: Sequence[str] = ()) -> Profile:
    """Returns the profile in a YAML file, changed by `KEY=VALUE`. Raises `BadJob` or `BadRecipe`
    that lists all problems.
    """
    tree = parse(read_text(path, "profile"), str(path))
    values = {} if tree.value is None else tree.value
    if not isinstance(values, dict):
        raise BadJob(f"profile {path} contains {short_text(values)}; a profile is a map of keys")
    raw = RawRecipe.from_tree(values, tree, str(path))
    for change in changes:
        _change(raw, change)
    return validate_file(Profile, raw, BadJob, "profile")


def _change(raw: RawRecipe, change: str) -> None:
    """Applies one `KEY=VALUE`, such as `time_limit=2:00:00` or `environment.OMP_NUM_THREADS=4`."""
    key, equals, text = change.partition("=")
    place = tuple(key.split("."))
    if not (equals and all(place)):
        raise BadJob(f"--set {change} is not KEY=VALUE, e.g. --set time_limit=2:00:00")
    section: object = raw.values
    for step in place[:-1]:
        if not isinstance(section, dict):
            break
        if section.get(step) is None:
            section[step] = {}
        section = section[step]
    if not isinstance(section, dict):
        raise BadJob(f"--set {change}: {place[0]} of the profile is not a map of keys")
    is_quoted = text[:1] in ("[", "{", "'", '"')
    section[place[-1]] = parse(text, f"--set {key}").value if is_quoted else parse_word(text)
    for depth in range(1, len(place) + 1):
        raw.origins[place[:depth]] = "command line"
