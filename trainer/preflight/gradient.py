"""Compares the gradient of the ranks of a machine file with that of one process, on a few rows."""

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
from trainer.build.data import DataSets
from trainer.build.families.registry import family_of
from trainer.data.order import batch_samples
from trainer.data.random_negatives import RandomNegatives
from trainer.errors import BadMachine
from trainer.preflight.findings import Findings
from trainer.preflight.planned_run import PlannedRun, Request
from trainer.preflight.rank_part import LIKENESS, NODES, ROWS
from trainer.recipe.schema.families import Recipe
from trainer.strategies.launcher import plan_launch, rank_environment
from trainer.strategies.machine.plan import Plan
from trainer.strategies.probe import GradientComparison

ROWS_PER_RANK = 4
STOP_SECONDS = 10
"""Seconds in which the ranks must end after a timeout, before they are killed."""
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
    """Adds a finding about the gradient of all ranks; starts none if `timeout_seconds` is None."""
    if run.plan is None:
        return
    obstacle = "--no-probe was given"
    if timeout_seconds is not None:
        obstacle = _obstacle(findings, request, run, run.plan)
    if obstacle or timeout_seconds is None:
        findings.add("skipped", "gradient", obstacle)
        return
    with findings.catch("gradient"):
        comparison = run_probe(request, run, run.plan, data, timeout_seconds, findings)
        if comparison is None:
            findings.add("ok", "gradient", "its comparison is printed on the first machine")
        else:
            add_comparison(findings, run.plan, comparison)


def _obstacle(findings: Findings, request: Request, run: PlannedRun, plan: Plan) -> str:
    """Returns the reason why the ranks cannot be started, or "" if they can."""
    if request.machine is None:
        return "one process has no other ranks to compare; for several, give --machine FILE"
    if findings.faults:
        return "it is checked only if there is no other problem"
    if plan.nodes > 1 and request.main_address is None:
        return (
            f"the run is for {plan.nodes} nodes; to compare them and their gradient, start the same"
            f" check on each, with --node-rank 0 to {plan.nodes - 1} and --main-address HOST (the"
            " name of node 0)"
        )
    return "" if run.plan_fits_here else "it cannot be checked on this machine"


def add_comparison(findings: Findings, plan: Plan, comparison: GradientComparison) -> None:
    """Adds a finding about the gradients of the ranks and of one process."""
    subject = f"gradient on {plan.ranks} rank{'s' * (plan.ranks > 1)} ({plan.kind}) against one"
    figures = f"norm ratio {comparison.norm_ratio:.7f}, cosine {comparison.cosine:.7f}"
    if not comparison.norm:
        findings.add(
            "warning",
            subject,
            "it is zero in both cases, so the check has no result: the first rows of the data have"
            " no loss with this objective",
        )
    elif comparison.is_equal:
        findings.add("ok", subject, figures)
    else:
        findings.add(
            "wrong",
            subject,
            f"{figures}; both must be 1. With these ranks the run would have another result than"
            " with one process: do not start it with this machine file, and report this",
        )


def run_probe(
    request: Request,
    run: PlannedRun,
    plan: Plan,
    data: DataSets,
    timeout_seconds: int,
    findings: Findings,
) -> GradientComparison | None:
    """Compares the gradients of one step on all ranks and in one process, and the nodes if there
    are several. Only the first node has the results; on others, it returns None.

    Raises BadMachine with the ranks' output if a rank fails or if they take too long.
    """
    with TemporaryDirectory(prefix="nearfar-check-") as name:
        folder = Path(name)
        _write_rows(folder, run.recipe, plan, data)
        output = folder / _OUTPUT
        code = _run_ranks(_command(request, plan, folder), plan, output, timeout_seconds)
        message = _last_lines(output.read_text(encoding="utf-8", errors="replace"))
        if code is None:
            raise BadMachine(
                f"the {plan.ranks} ranks did not finish within {timeout_seconds} seconds and were"
                " ended; raise --probe-timeout-seconds, or check whether they can connect to each"
                f" other. They printed:\n{message}"
            )
        is_first = not request.node_rank
        if code or (is_first and not (folder / LIKENESS).exists()):
            raise BadMachine(
                f"the {plan.ranks} ranks ended with exit code {code} before they computed a"
                f" gradient. They printed:\n{message}"
            )
        if not is_first:
            return None
        if (folder / NODES).exists():
            for severity, text in json.loads((folder / NODES).read_text(encoding="utf-8")):
                findings.add(severity, "nodes", text)
        return GradientComparison(**json.loads((folder / LIKENESS).read_text(encoding="utf-8")))


def _write_rows(folder: Path, recipe: Recipe, plan: Plan, data: DataSets) -> None:
    """Some rows from the start of the run's own order, with all known positives of their
    queries.
    """
    positives = data.known_positives
    rows_per_rank = min(ROWS_PER_RANK, recipe.optimization.batch_size // plan.ranks)
    samples = batch_samples(recipe.seed, 0, len(data.train), rows_per_rank * plan.ranks)
    negatives = family_of(recipe).random_negatives(recipe, data.train, positives)
    if recipe.refresh_section is not None:  # gradients can be compared with any negatives
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
    place = (request.nodes, request.node_rank, request.main_address)
    assert request.machine is not None, "without a machine file there are no ranks to start"
    options = plan_launch(request.machine, *place).options()
    if plan.ranks > 1 and plan.nodes == 1:
        options += ["--main_process_port", "0"]  # any free port, since another run may be active
    verb = ["check", str(request.recipe), *request.overrides, "--machine", str(request.machine)]
    verb += ["--as-rank", str(folder)]
    return [sys.executable, "-c", _LAUNCHER, *options, "--module", "trainer", *verb]


def _run_ranks(
    command: Sequence[str], plan: Plan, output: Path, timeout_seconds: int
) -> int | None:
    """Returns the exit code of the launcher, or None if it was ended after a timeout."""
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
                # It forwards the signal to its ranks, each of which has its own session.
                launcher.send_signal(signal.SIGTERM)
                try:
                    launcher.wait(2 * STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    launcher.kill()
                    launcher.wait()


def _last_lines(output: str) -> str:
    """Returns the errors that the ranks printed, without repetitions, or else their last lines."""
    lines = [
        line
        for line in output.splitlines()
        if line.strip() and "torch/distributed/elastic" not in line  # lines of the launcher itself
    ]
    errors = list(dict.fromkeys(line for line in lines if line.startswith("error: ")))
    return "\n".join(f"  {line[:500]}" for line in errors[:3] or lines[-5:]) or "  nothing"
