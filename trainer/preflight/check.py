"""`nearfar check`: checks a run before it is submitted."""

from collections.abc import Callable

from trainer.preflight.findings import Finding, Findings
from trainer.preflight.planned_run import Request
from trainer.preflight.recipe_file import check_recipe_file


def check_run(
    request: Request,
    probe_timeout_seconds: int | None = 600,
    show: Callable[[Finding], None] = lambda finding: None,
) -> Findings:
    """Checks recipe, machine file, data, model, memory, disk, and the gradient on the real ranks.

    `show` is called with each finding when it is made. The ranks are ended after
    `probe_timeout_seconds`; None starts no ranks. The run itself is not started, and no file is
    written to its folder.
    """
    findings = Findings(show)
    recipe, sections = check_recipe_file(findings, request)
    # Heavy libraries are imported after the first finding has been shown.
    from trainer.preflight.data import check_data, check_lengths, check_training
    from trainer.preflight.disk import check_disk, mining_bytes
    from trainer.preflight.gradient import check_gradient
    from trainer.preflight.machine_file import check_machine
    from trainer.preflight.memory import check_memory
    from trainer.preflight.model import check_model
    from trainer.preflight.teacher import check_teachers

    whole_run = check_machine(findings, request, recipe, sections)
    if whole_run is None:
        return findings
    data = check_data(findings, whole_run) if whole_run.has("data") else None
    run = check_training(findings, whole_run, data) if data else whole_run
    encoder = check_model(findings, run) if run.has("model") else None
    lengths = check_lengths(findings, run, encoder, data) if encoder and data else None
    if encoder and run.has("machine", "optimization"):
        check_memory(findings, run, encoder, lengths)
    if encoder and run.has("name", "output"):
        teacher_bytes = check_teachers(findings, run, data) if data else 0
        other_bytes = teacher_bytes + mining_bytes(run, data, encoder, lengths)
        check_disk(findings, run, encoder, other_bytes)
    if data:
        check_gradient(findings, request, whole_run, data, probe_timeout_seconds)
    return findings
