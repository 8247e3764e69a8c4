"""`nearfar check`: everything about a run on a machine that can be known before it is submitted,
one finding a line.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trainer.preflight.contents import (
    look_at_data,
    look_at_disk,
    look_at_lengths,
    look_at_memory,
    look_at_model,
)
from trainer.preflight.files import (
    look_at_both,
    look_at_machine,
    look_at_recipe,
    look_at_this_machine,
)
from trainer.preflight.ranks import probe, take_part
from trainer.preflight.teacher import look_at_teachers

if TYPE_CHECKING:
    from trainer.build.data import DataSets
    from trainer.models.encoder import Encoder
    from trainer.preflight.estimates import Findings
    from trainer.recipe.schema.families import Recipe
    from trainer.strategies.environment import Plan
    from trainer.strategies.probe import GradientComparison


def check(
    recipe: Annotated[
        Path,
        typer.Argument(help="recipe file, e.g. recipes/bi-encoder-lora.yaml", show_default=False),
    ],
    machine: Annotated[
        Path,
        typer.Option(
            "--machine",
            help="machine file, e.g. launch/accelerate/cpu-2-zero3.yaml",
            show_default=False,
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="changes to the recipe: key.sub=value", show_default=False),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="the run will be started with --replace")
    ] = False,
    no_probe: Annotated[
        bool,
        typer.Option(
            "--no-probe",
            help="do not start the ranks to compare their gradient with that of one process",
        ),
    ] = False,
    probe_timeout_seconds: Annotated[
        int, typer.Option(min=1, help="the ranks are ended when they take longer")
    ] = 600,
    as_rank: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Look over a run before it is submitted: recipe, machine, data, model, memory, disk, and the
    gradient on the real ranks.
    """
    if as_rank is not None:
        take_part(recipe, overrides or [], as_rank)
        return
    from trainer.preflight.estimates import Findings

    findings = Findings()
    run, read = look_at_recipe(findings, recipe, overrides or [])
    plan, ranks = look_at_machine(findings, machine)
    here = plan is not None and look_at_this_machine(findings, plan)
    if run is not None:
        run = look_at_both(findings, run, read, plan, ranks, replace)
        data = _look_inside(findings, run, read, plan, here, replace)
        if data and plan:
            hindrance = "--no-probe was given" if no_probe else _hindrance(findings, plan, here)
            with findings.of("gradient"):
                if hindrance:
                    findings.add("skipped", "gradient", hindrance)
                else:
                    judge(
                        findings,
                        plan,
                        probe(
                            recipe, overrides or [], machine, run, plan, data, probe_timeout_seconds
                        ),
                    )
    if findings.wrong:
        print(f"{findings.wrong} {'things are' if findings.wrong > 1 else 'thing is'} wrong")
        raise typer.Exit(2)
    print("nothing wrong was found")


def _look_inside(
    findings: "Findings",
    run: "Recipe",
    read: set[str],
    plan: "Plan | None",
    here: bool,
    replace: bool,
) -> "DataSets | None":
    """At all that needs data or model; the data, where they can be read."""
    data = look_at_data(findings, run, read) if "data" in read else None
    encoder = look_at_model(findings, run) if "model" in read else None
    length = look_at_lengths(findings, run, encoder, data) if encoder and data else None
    if encoder and plan and {"machine", "optimization"} <= read:
        look_at_memory(findings, run, plan, encoder, here, length)
    if encoder and {"name", "output"} <= read:
        of_teachers = look_at_teachers(findings, run, data, replace) if data else 0
        of_refresh = (
            _refresh_bytes(run, data, encoder, length[1].mean_tokens) if data and length else 0
        )
        look_at_disk(findings, run, encoder, of_teachers + of_refresh)
    return data


def _refresh_bytes(
    run: "Recipe", data: "DataSets", encoder: "Encoder", document_tokens: float
) -> int:
    from trainer.build.refresh import written_bytes
    from trainer.errors import NearfarError

    try:
        return written_bytes(run, data.train, encoder, document_tokens)
    except NearfarError:  # said where the data were looked at
        return 0


def _hindrance(findings: "Findings", plan: "Plan", here: bool) -> str | None:
    """Why the ranks cannot be started here and now."""
    if findings.wrong:
        return "not looked at before the rest is right"
    if plan.nodes > 1:
        return (
            f"the file is for {plan.nodes} nodes, which cannot be started from here; start `nearfar"
            " fit` with optimization.max_steps=1 on them"
        )
    return None if here else "cannot be seen from here"


def judge(findings: "Findings", plan: "Plan", found: "GradientComparison") -> None:
    """A finding about the gradient of the ranks beside that of one process."""
    what = f"gradient on {plan.ranks} rank{'s' * (plan.ranks > 1)} ({plan.kind}) against one"
    said = f"norm ratio {found.norm_ratio:.7f}, cosine {found.cosine:.7f}"
    if not found.norm:
        findings.add(
            "warning",
            what,
            "it is zero on both, which shows nothing: the first rows of the data have no loss under"
            " this objective",
        )
    elif found.is_equal:
        findings.add("ok", what, said)
    else:
        findings.add(
            "wrong",
            what,
            f"{said}; both must be 1. This machine would learn something else than one process: do"
            " not run there, and report it",
        )
