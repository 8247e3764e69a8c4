"""What `nearfar check` finds in data and model: counts, lengths, memory, disk."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainer.build.data import DataSets
    from trainer.models.encoder import Encoder
    from trainer.preflight.estimates import Findings, Lengths, Need
    from trainer.recipe.schema.data import DataSection
    from trainer.recipe.schema.families import Recipe
    from trainer.strategies.environment import Plan

MANY_CUT_RATIO = 0.1


def look_at_data(findings: "Findings", run: "Recipe", read: set[str]) -> "DataSets | None":
    """Whether all sets can be read, and hold what objective and batch need."""
    from trainer.build import checks as recipe_checks
    from trainer.build.data import data_sets, leaked_queries
    from trainer.build.module import total_steps, validation_interval
    from trainer.build.refresh import explanation, refresh_section
    from trainer.errors import NearfarError

    try:
        data = data_sets(run.data, run.seed, all_negatives=refresh_section(run) is not None)
    except NearfarError as error:
        for message in dict.fromkeys([str(error), *_faults(run.data)]):
            findings.add("wrong", "data", message)
        return None
    test = f", {len(data.test.queries):,} test queries" if data.test else ""
    findings.add(
        "ok",
        "data",
        f"{len(data.train):,} training pairs, {len(data.validation.queries):,} validation"
        f" queries{test}",
    )
    for name, held_out in (("validation", data.validation), ("test", data.test)):
        if held_out is not None and (seen := leaked_queries(data.train, held_out)):
            findings.add(
                "warning",
                "data",
                f"{seen:,} of {len(held_out.queries):,} {name} queries are training queries too;"
                " they prove nothing",
            )
    if "objective" in read:
        with findings.of("objective"):
            recipe_checks.check_objective(run, data.train, data.mixture)
            findings.add("ok", "objective", f"{run.objective.kind}: the rows have what it needs")
    if "optimization" in read:
        with findings.of("steps"):
            samples = len(data.train)
            steps = total_steps(run.optimization, samples)
            passes = steps * run.optimization.batch_size / samples
            findings.add(
                "ok",
                "steps",
                f"{steps:,}, {passes:.3g} passes over the training pairs, validation after every"
                f" {validation_interval(run, samples, steps):,}",
            )
    if refresh_section(run) is not None and {"optimization", "refresh"} <= read:
        with findings.of("refresh"):
            findings.add(
                "ok",
                "refresh",
                explanation(run, data.train, total_steps(run.optimization, len(data.train))),
            )
    return data


def _faults(data: "DataSection") -> Iterator[str]:
    """Of each data set by itself, what is wrong with it."""
    from trainer.data.readers.read import read_rows
    from trainer.data.retrieval_set import read_retrieval_set
    from trainer.errors import NearfarError

    for source in data.sources:
        try:
            read_rows(
                source.source,
                data.columns if source.columns is None else source.columns,
                max_bad_rows_ratio=data.max_bad_rows_ratio,
            )
        except NearfarError as error:
            yield str(error)
    for held_out, split in ((data.validation, "dev"), (data.test, "test")):
        try:
            if held_out is not None:
                read_retrieval_set(
                    held_out,
                    split,  # type: ignore[arg-type]
                    data.columns,
                    max_bad_rows_ratio=data.max_bad_rows_ratio,
                )
        except NearfarError as error:
            yield str(error)


def look_at_model(findings: "Findings", run: "Recipe") -> "Encoder | None":
    """Whether model and tokenizer load, and belong together."""
    from trainer.build import students
    from trainer.build.module import encoder_of
    from trainer.models.files.locate import locate
    from trainer.recipe.schema.families import CrossEncoderRecipe

    with findings.of("validation"):
        if isinstance(run, CrossEncoderRecipe) and run.validation.first_stage is not None:
            locate(run.validation.first_stage)
    with findings.of("model"):
        encoder = encoder_of(run)
        students.check_whole(run, encoder)
        trained = sum(
            parameter.numel() for parameter in encoder.parameters() if parameter.requires_grad
        )
        everything = sum(parameter.numel() for parameter in encoder.parameters())
        what = (
            f"{run.model.backbone}, {run.model.tuning.kind}: {trained:,} of {everything:,} weights"
            " are trained"
        )
        gives = (
            "one score a pair"
            if isinstance(run, CrossEncoderRecipe)
            else f"vectors of {encoder.dimensions}"
        )
        findings.add("ok", "model", f"{what}; {gives}, and the tokenizer fits")
        return encoder
    return None


def look_at_lengths(
    findings: "Findings", run: "Recipe", encoder: "Encoder", data: "DataSets"
) -> "tuple[Lengths, Lengths]":
    """How many queries and documents are longer than the model takes."""
    from trainer.preflight.estimates import lengths

    found = lengths(encoder, data.train, run.negatives_per_query)
    for role, of_role in zip(("query", "document"), found, strict=True):
        many = of_role.cut > MANY_CUT_RATIO * of_role.texts
        text = (
            f"{of_role.cut:,} of {of_role.texts:,} {role} texts looked at are longer than"
            f" {of_role.limit_tokens} tokens and are cut; "
        )
        text += f"{of_role.mean_tokens:.0f} tokens on average"
        advice = (
            f"; allow more with model.{role}_max_length_tokens, or cut them into passages"
            if many
            else ""
        )
        findings.add("warning" if many else "ok", "lengths", text + advice)
    return found


def look_at_memory(
    findings: "Findings",
    run: "Recipe",
    plan: "Plan",
    encoder: "Encoder",
    here: bool,
    length: "tuple[Lengths, Lengths] | None",
) -> None:
    """What a rank needs, and whether it is there."""
    import torch

    from trainer.build import hardware
    from trainer.preflight.estimates import largest_first, size, weight_needs
    from trainer.runtime import memory

    with findings.of("memory"):
        unseen = {
            "accelerator": "cpu",
            "precision": "fp32" if run.machine.precision == "fp16" else run.machine.precision,
        }
        run = (
            run
            if here
            else run.model_copy(update={"machine": run.machine.model_copy(update=unseen)})
        )
        encoder.to(hardware.device(run.machine))
        needs = weight_needs(plan, encoder)
        if length is not None:
            needs.append(_activations(run, plan, encoder, here, length))
        on_cpu = encoder.device.type == "cpu"
        said = f"about {size(sum(need.amount for need in needs))} a rank ({largest_first(needs)})"
        if not here:
            findings.add("warning", "memory", f"{said}; whether that fits cannot be seen from here")
            return
        loaded = sum(
            parameter.nbytes for parameter in encoder.parameters()
        )  # here too, until the ranks start
        on_machine = sum(need.amount for need in needs if need.on_machine or on_cpu)
        on_device = sum(need.amount for need in needs) - on_machine
        for wanted, place, device in (
            (on_device, "on its GPU", encoder.device),
            (on_machine, "in the machine's memory", torch.device("cpu")),
        ):
            if not wanted:
                continue
            free = memory.available_bytes(device, plan.ranks_per_node) + loaded * (
                device.type == encoder.device.type
            )
            if wanted > free:
                findings.add(
                    "wrong", "memory", f"{said}; {size(free)} are free for each rank {place}. "
                                       f"Share the weights among more ranks (FSDP2, ZeRO-3), "
                    "train with model.tuning.kind=lora, or lower machine.micro_batch_tokens"
                )  # fmt: skip
            else:
                findings.add("ok", "memory", f"{said}; {size(free)} are free for each rank {place}")


def _activations(
    run: "Recipe", plan: "Plan", encoder: "Encoder", here: bool, length: "tuple[Lengths, Lengths]"
) -> "Need":
    """What a rank keeps of a step for the backward pass, by a measured micro-batch; at least one
    micro-batch.
    """
    from trainer.batch import Texts
    from trainer.build import hardware
    from trainer.preflight.estimates import Need
    from trainer.retrieval.vectors.encode import autocast
    from trainer.runtime import memory

    queries, documents = length
    texts_a_query = documents.texts / queries.texts
    step = (
        run.optimization.batch_size
        // plan.ranks
        * (queries.mean_tokens + texts_a_query * documents.mean_tokens)
    )
    with autocast(encoder.device, hardware.precision(run.machine)):
        longest = encoder.contract.document_max_length_tokens
        a_token = memory.activation_bytes_per_token(
            encoder, encoder, Texts.of([[0] * longest], [0])
        )
    known = here or run.machine.kept_tokens != "auto"
    at_once, allowed = hardware.micro_batching(run.machine, encoder, plan.ranks_per_node)
    kept = max(min(step, allowed if known else step), min(step, at_once))
    room = "" if known else ", if there is room for them"
    return Need(
        f"activations ({kept:,.0f} of a step's {step:,.0f} tokens{room})", int(a_token * kept)
    )


def look_at_disk(findings: "Findings", run: "Recipe", encoder: "Encoder", of_others: int) -> None:
    """Whether what the run writes fits on the disk of its folder. `of_others`: bytes of what is
    neither model nor checkpoint.
    """
    from trainer.preflight.estimates import free_bytes, size, written_bytes

    folder = Path(run.output) / run.name
    wanted, free = written_bytes(encoder) + of_others, free_bytes(folder)
    if wanted > free:
        findings.add(
            "wrong",
            "disk",
            f"the run writes up to {size(wanted)}, and {size(free)} are free for {folder}; choose a"
            " place with output=FOLDER",
        )
    else:
        findings.add("ok", "disk", f"the run writes up to {size(wanted)}; {size(free)} are free")
