"""Checks the data of a run: they must be readable and fit the objective. Measures text lengths."""

from collections.abc import Iterator
from dataclasses import replace

from trainer.build.checks import check_objective
from trainer.build.data import DataSets, data_sets
from trainer.build.data_facts.lengths import Lengths, measure_lengths
from trainer.build.module import total_steps, validation_times
from trainer.build.refresh import explanation, limit_mining
from trainer.data.readers.read import Split, read_rows
from trainer.data.retrieval_set import read_retrieval_set
from trainer.errors import NearfarError
from trainer.models.encoder import Encoder
from trainer.preflight.findings import Findings
from trainer.preflight.planned_run import PlannedRun
from trainer.recipe.schema.families import Recipe


def check_data(findings: Findings, run: PlannedRun) -> DataSets | None:
    """Adds findings about the data. Returns the data, or None if a part cannot be read."""
    settings, refresh = run.recipe, run.recipe.refresh_section
    try:
        data = data_sets(settings.data, settings.seed, refresh is not None, settings.has_images)
    except NearfarError as error:
        for message in dict.fromkeys([str(error), *_faults_of_sets(settings)]):
            findings.add("wrong", "data", message)
        return None
    test = f", {len(data.test.queries):,} test queries" if data.test else ""
    pairs, queries = f"{len(data.train):,} training pairs", len(data.validation.queries)
    for collection in data.general:
        test += f", {len(collection.queries):,} queries of {collection.name}"
    findings.add("ok", "data", f"{pairs}, {queries:,} validation queries{test}")
    for warning in data.warnings:
        findings.add("warning", "data", warning)
    return data


def _faults_of_sets(recipe: Recipe) -> Iterator[str]:
    """Yields the error of each data set that cannot be read."""
    data, has_images = recipe.data, recipe.has_images
    ratio = data.max_bad_rows_ratio
    for source in data.sources:
        columns = data.columns if source.columns is None else source.columns
        try:
            read_rows(source.source, columns, max_bad_rows_ratio=ratio, has_images=has_images)
        except NearfarError as error:
            yield str(error)
    splits: list[tuple[str | None, Split]] = [(data.validation, "dev"), (data.test, "test")]
    splits += [(folder, "test") for folder in data.general_folders]
    for name, split in splits:
        try:
            if name is not None:
                read_retrieval_set(name, split, data.columns, None, ratio, has_images=has_images)
        except NearfarError as error:
            yield str(error)


def check_training(findings: Findings, run: PlannedRun, data: DataSets) -> PlannedRun:
    """Adds findings about objective, number of steps and mined negatives for these data. Returns
    the run, without mining among too many documents.
    """
    former_faults = findings.faults
    if run.has("objective"):
        with findings.catch("objective"):
            check_objective(run.recipe, data.train, data.mixture)
            kind = run.recipe.objective.kind
            findings.add("ok", "objective", f"{kind}: the rows have what it needs")
    if run.has("refresh") and findings.faults == former_faults:
        with findings.catch("refresh"):
            recipe, warning = limit_mining(run.recipe, data.train)
            run = replace(run, recipe=recipe)
            if warning:
                findings.add("warning", "refresh", warning)
    if run.has("optimization"):
        with findings.catch("steps"):
            _check_steps(findings, run, data)
        if run.has("refresh") and run.recipe.refresh_section and findings.faults == former_faults:
            with findings.catch("refresh"):
                steps = total_steps(run.recipe.optimization, len(data.train))
                findings.add("ok", "refresh", explanation(run.recipe, data.train, steps))
    return run


def _check_steps(findings: Findings, run: PlannedRun, data: DataSets) -> None:
    settings, samples = run.recipe, len(data.train)
    steps = total_steps(settings.optimization, samples)
    passes = steps * settings.optimization.batch_size / samples
    times = validation_times(settings, samples, steps, data.validation)
    text = f"{steps:,}, {passes:.3g} passes over the training pairs"
    findings.add("ok", "steps", f"{text}, validation {times.text}")


# ---------------------------------------------------------------- lengths


def check_lengths(
    findings: Findings, run: PlannedRun, encoder: Encoder, data: DataSets
) -> tuple[Lengths, Lengths]:
    """Adds findings about the lengths of queries and documents, and returns the lengths."""
    lengths_by_role = measure_lengths(encoder, data.train, run.recipe.negatives_per_query)
    for role, lengths in zip(("query", "document"), lengths_by_role, strict=True):
        if warning := lengths.warning(role):
            findings.add("warning", "lengths", warning)
        else:
            findings.add("ok", "lengths", lengths.summary(role))
    return lengths_by_role
