"""The gradient of the ranks of a machine file beside that of one process, on a few rows."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from trainer.batch import identity
from trainer.build.cross_encoder import random_negatives
from trainer.build.data import DataSets
from trainer.build.refresh import refresh_section
from trainer.data.order import batch_samples
from trainer.data.random_negatives import RandomNegatives
from trainer.data.rows import known_positives
from trainer.errors import BadMachine
from trainer.preflight.findings import Findings
from trainer.preflight.planned_run import PlannedRun, Request
from trainer.preflight.rank_part import LIKENESS, ROWS
from trainer.recipe.schema.families import Recipe
from trainer.strategies.launcher import rank_environment
from trainer.strategies.machine.plan import Plan
from trainer.strategies.probe import GradientComparison

ROWS_PER_RANK = 4
STOP_SECONDS = 10
"""Time that the ranks have to end themselves when they took too long."""
_OUTPUT = "output.txt"
_LAUNCHER = (
    "import sys; from trainer.strategies.launcher import run_ranks;"
    " sys.exit(run_ranks(sys.argv[1:]))"
)


def check_gradient(
    findings: Findings,
    request: Request,
    run: PlannedRun,
    data: DataSets,
    timeout_seconds: int | None,
) -> None:
    """A finding about the gradient of all ranks; with no `timeout_seconds` none is started."""
    if run.plan is None:
        return
    obstacle = "--no-probe was given"
    if timeout_seconds is not None:
        obstacle = _obstacle(findings, run, run.plan)
    if obstacle or timeout_seconds is None:
        findings.add("skipped", "gradient", obstacle)
        return
    with findings.about("gradient"):
        judge(findings, run.plan, probe(request, run, run.plan, data, timeout_seconds))


def _obstacle(findings: Findings, run: PlannedRun, plan: Plan) -> str:
    """Why the ranks cannot be started here and now; empty where they can."""
    if findings.faults:
        return "not checked until everything else is right"
    if plan.nodes > 1:
        return (
            f"the run is for {plan.nodes} nodes, which cannot be started from here; start `nearfar"
            " launch` with optimization.max_steps=1 on them"
        )
    return "" if run.plan_fits_here else "cannot be checked on this machine"


def judge(findings: Findings, plan: Plan, comparison: GradientComparison) -> None:
    """A finding about how alike the gradients of the ranks and of one process are."""
    subject = f"gradient on {plan.ranks} rank{'s' * (plan.ranks > 1)} ({plan.kind}) against one"
    figures = f"norm ratio {comparison.norm_ratio:.7f}, cosine {comparison.cosine:.7f}"
    if not comparison.norm:
        findings.add(
            "warning",
            subject,
            "it is zero on both, which proves nothing: the first rows of the data have no loss"
            " under this objective",
        )
    elif comparison.is_equal:
        findings.add("ok", subject, figures)
    else:
        findings.add(
            "wrong",
            subject,
            f"{figures}; both must be 1. On this machine the run would learn something else than in"
            " one process: do not run it here, and report this",
        )


def probe(
    request: Request, run: PlannedRun, plan: Plan, data: DataSets, timeout_seconds: int
) -> GradientComparison:
    """How alike the gradients of one step are, on all ranks and in one process.

    Raises BadMachine when a rank fails or they take too long, with what they printed.
    """
    with TemporaryDirectory(prefix="nearfar-check-") as name:
        folder = Path(name)
        _write_rows(folder, run.recipe, plan, data)
        output = folder / _OUTPUT
        code = _run_ranks(_command(request, plan, folder), plan, output, timeout_seconds)
        message = _last_words(output.read_text(encoding="utf-8", errors="replace"))
        if code is None:
            raise BadMachine(
                f"the {plan.ranks} ranks did not finish within {timeout_seconds} seconds and were"
                " ended; allow more with --probe-timeout-seconds, or see whether they can reach"
                f" each other. They printed:\n{message}"
            )
        if code or not (folder / LIKENESS).exists():
            raise BadMachine(
                f"the {plan.ranks} ranks ended with code {code} before there was a gradient. They"
                f" printed:\n{message}"
            )
        return GradientComparison(**json.loads((folder / LIKENESS).read_text(encoding="utf-8")))


def _write_rows(folder: Path, recipe: Recipe, plan: Plan, data: DataSets) -> None:
    """Some rows from the start of the run's own order, with all known positives of their
    queries.
    """
    positives = known_positives(data.train)
    rows_per_rank = min(ROWS_PER_RANK, recipe.optimization.batch_size // plan.ranks)
    samples = batch_samples(recipe.seed, 0, len(data.train), rows_per_rank * plan.ranks)
    negatives = random_negatives(recipe, data.train, positives)
    if refresh_section(recipe) is not None:  # any negatives will do to compare gradients
        negatives = RandomNegatives(data.train, positives, recipe.seed, recipe.negatives_per_query)
    rows = [
        negatives.row_with_negatives(0, samples, place) if negatives else data.train[int(sample)]
        for place, sample in enumerate(samples)
    ]
    lines = [
        asdict(row) | {"known": sorted(positives.get(identity(row.query), frozenset()))}
        for row in rows
    ]
    (folder / ROWS).write_text(json.dumps(lines), encoding="utf-8")


def _command(request: Request, plan: Plan, folder: Path) -> list[str]:
    machine = str(request.machine)
    options = ["--config_file", machine, "--num_processes", str(plan.ranks)]
    if plan.ranks > 1:
        options += ["--main_process_port", "0"]  # any free port: another run may be going on
    verb = ["check", str(request.recipe), *request.overrides, "--machine", machine]
    verb += ["--as-rank", str(folder)]
    return [sys.executable, "-c", _LAUNCHER, *options, "--module", "trainer", *verb]


def _run_ranks(
    command: Sequence[str], plan: Plan, output: Path, timeout_seconds: int
) -> int | None:
    """The exit code of the launcher; None when it took too long and was ended with all its
    ranks.
    """
    environ = rank_environment(plan, os.environ)
    environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = str(STOP_SECONDS)
    with output.open("wb") as file:
        launcher = subprocess.Popen(
            command,
            env=environ,
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            return launcher.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if launcher.poll() is None:
                # It passes the signal on to its ranks, each of which is in a session of its own.
                launcher.send_signal(signal.SIGTERM)
                try:
                    launcher.wait(2 * STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    launcher.kill()
                    launcher.wait()


def _last_words(output: str) -> str:
    """The errors that the ranks printed, each once; otherwise their last lines."""
    lines = [
        line
        for line in output.splitlines()
        if line.strip() and "torch/distributed/elastic" not in line  # the launcher's own lines
    ]
    errors = list(dict.fromkeys(line for line in lines if line.startswith("error: ")))
    return "\n".join(f"  {line[:500]}" for line in errors[:3] or lines[-5:]) or "  nothing"
