"""`nearfar submit` without a cluster: it prints a checked script, and refuses what cannot run
before anything is started.
"""

import subprocess
import sys
from pathlib import Path

import pytest
from forked import nearfar

from trainer.errors import BadJob
from trainer.slurm.profile import Profile
from trainer.slurm.submit import plan_job

MACHINE = "distributed_type: MULTI_GPU\nuse_cpu: true\nmain_process_port: 0\nnum_processes: 2\n"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a machine file and a profile."""
    (tmp_path / "two.yaml").write_text(MACHINE)
    (tmp_path / "three.yaml").write_text(MACHINE.replace("2", "3"))
    (tmp_path / "cpu.yaml").write_text(f"python: {sys.executable}\ntime_limit: 2:00:00\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/bash").symlink_to("/bin/bash")
    return tmp_path


def submit(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The command in that folder, on a machine without Slurm."""
    options = ["--machine", "two.yaml", "--slurm", "cpu.yaml"]
    environment = {"PATH": str(place / "bin")}
    return nearfar("submit", *options, *words, folder=place, environment=environment)


def test_dry_run_prints_a_script_that_bash_can_read(place: Path) -> None:
    result = submit(place, "quickstart", "--nodes", "2", "data.train=it's", "--dry-run")
    assert result.returncode == 0, result.stderr
    assert result.stderr == "no cluster answers here, so only bash has checked this script\n"
    assert "#SBATCH --job-name=quickstart\n#SBATCH --nodes=2\n" in result.stdout
    assert (
        """words=(launch --resume --machine two.yaml quickstart 'data.train=it'"'"'s')\n"""
        in result.stdout
    )
    subprocess.run(["bash", "-n"], input=result.stdout, text=True, check=True)
    assert not (place / "logs").exists()


def test_sweep_is_one_array(place: Path) -> None:
    result = submit(place, "quickstart", "--sweep", "seed=1,2", "--after", "12", "--dry-run")
    assert result.returncode == 0, result.stderr
    assert "#SBATCH --array=0-1\n#SBATCH --dependency=afterok:12\n" in result.stdout
    assert "\n1) words+=(seed=2 name=quickstart-seed-2) ;;\n" in result.stdout


PIPELINE = """
name: two
stages:
  a:
    command: nearfar data check pairs.jsonl --rejected ${bad}
    outputs: {bad: bad.jsonl}
  b:
    command: nearfar data check ${a.bad}
"""


def test_pipeline_is_a_job_for_each_stage_that_is_not_done(place: Path) -> None:
    (place / "pairs.jsonl").write_text('{"query": "a", "positive": "b"}\n')
    (place / "two.yaml").write_text(PIPELINE)
    words = ["--slurm", "cpu.yaml", "pipeline", "two.yaml", "output=out"]
    environment = {"PATH": str(place / "bin")}
    result = nearfar("submit", *words, "--dry-run", folder=place, environment=environment)
    assert result.returncode == 0, result.stderr
    scripts = result.stdout.split("#!/usr/bin/env bash\n")[1:]
    names = [script.partition("--job-name=")[2].partition("\n")[0] for script in scripts]
    assert names == ["two-a", "two-b"]
    assert "\nwords=(pipeline two.yaml output=out --only b)\n" in scripts[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["quickstart"], "there is no sbatch on this machine, so no job can be submitted"),
        (["quickstart", "--machine", "three.yaml"], "batch_size=128 cannot be cut into 3 equal"),
        (["quickstart", "--nodes", "3"], "batch_size=128 cannot be cut into 6 equal parts"),
        (["quickstart", "--sweep", "optimization.batch_size=4,5"], "batch_size=5 cannot be cut"),
        (["quickstart", "--machine", "none.yaml"], "machine file none.yaml cannot be read"),
        (["quickstart", "--slurm", "none.yaml"], "profile none.yaml cannot be read"),
        (["quickstart", "--name", "a; touch canary"], "'a; touch canary' cannot be the name of"),
        (["quickstart", "--set", "time_limit=soon"], "time_limit: 'soon' is not a time limit"),
        (["quickstart", "--set", "tme_limit=1:00:00"], "did you mean time_limit?"),
        (["quickstart", "--set", "python=venv/bin/python"], "python: there is no venv/bin/python"),
        (["quickstart", "--after", "x"], "--after 'x' is not the number of a job"),
        (["quickstart", "sed=1"], "sed is not a key; did you mean seed?"),
        (["quickstat"], "did you mean quickstart?"),
        (["quickstart", "--replacement"], "No such option: --replacement"),
        (["mine", "a", "b", "-o", "c", "--sweep", "seed=1"], "--sweep is for recipes"),
        (["mine", "/nowhere", "b", "-o", "c"], "there is no model folder /nowhere"),
        (["mine", "a"], "Missing argument"),
        (["pipeline", "my.yaml"], "--machine, --nodes and --sweep are not for a pipeline"),
    ],
)
def test_mistake_is_refused_before_anything_is_started(
    words: list[str], message: str, place: Path
) -> None:
    before = set(place.rglob("*"))
    result = submit(place, *words)
    assert message in " ".join(result.stderr.split()), result.stderr
    assert result.returncode == 2
    assert result.stdout == ""
    assert set(place.rglob("*")) == before


@pytest.mark.parametrize(
    ("machine", "profile", "expected"),
    [
        ("zero2", Profile(gpus_per_node=4), ("zero2", 8, 4)),
        ("cpu-2-fsdp2", Profile(), ("fsdp2", 4, 2)),
        ("gpu-1", Profile(gpus_per_node=1), None),
    ],
)
def test_processes_are_those_of_the_nodes(
    machine: str, profile: Profile, expected: tuple[str, int, int] | None, repository: Path
) -> None:
    """Not those of the machine on which the job is submitted."""
    plan = plan_job(repository / f"launch/accelerate/{machine}.yaml", profile, 2 if expected else 1)
    assert (plan.kind, plan.ranks, plan.ranks_per_node) == (expected or ("single", 1, 1))


def test_number_of_processes_must_be_known(repository: Path) -> None:
    with pytest.raises(BadJob, match="the profile has gpus_per_node: 0; set it"):
        plan_job(repository / "launch/accelerate/ddp.yaml", Profile(cpus_per_task=8), 2)


def test_profile_must_have_the_gpus_of_the_machine_file(tmp_path: Path) -> None:
    file = tmp_path / "four.yaml"
    file.write_text("distributed_type: MULTI_GPU\nuse_cpu: false\nnum_processes: 4\n")
    with pytest.raises(BadJob, match="starts 4 processes on GPUs of each node"):
        plan_job(file, Profile(gpus_per_node=2), None)
