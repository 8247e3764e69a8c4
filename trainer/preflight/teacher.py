"""Checks the teachers of a run: they must load. Estimates the size of the vectors to store."""

from collections.abc import Mapping
from functools import partial

from trainer.build import students
from trainer.build.data import DataSets
from trainer.build.refresh import searched_texts
from trainer.models.contract import Role
from trainer.models.encoder import Encoder
from trainer.models.families import read_model
from trainer.models.late_interaction import LateInteractionEncoder
from trainer.preflight.data import measure_lengths
from trainer.preflight.findings import Findings
from trainer.preflight.planned_run import PlannedRun
from trainer.preflight.sizes import format_bytes
from trainer.recipe.schema.families import VectorRecipe
from trainer.retrieval.vectors.taught_vectors import content_of, names_of, to_do


def check_teachers(findings: Findings, run: PlannedRun, data: DataSets) -> int:
    """Adds a finding per teacher, and returns the bytes of their vectors of the training texts."""
    settings = run.recipe
    if not isinstance(settings, VectorRecipe) or settings.teacher is None:
        return 0
    further_texts = partial(searched_texts, settings, data.train)
    texts = names_of(data.train, settings.data.negatives_per_query, further_texts)
    total = 0
    for name in settings.teacher.models:
        with findings.catch("teacher"):
            teacher, tasks = read_model(name), list[str]()
            folder = students.kept_in(settings, name)
            to_do(folder, content_of(teacher), texts, run.replace, tasks.append)
            if not tasks:
                text = f"its vectors of the training texts are already in {folder}"
            else:
                counts = {role: len(identities) for role, identities in texts.items()}
                amount = _vector_bytes(teacher, run, data, counts)
                total += amount
                weights = 4 * sum(parameter.numel() for parameter in teacher.parameters())
                text = (
                    f"{tasks[0]}, about {format_bytes(amount)}; until then its weights take"
                    f" {format_bytes(weights)} on each rank"
                )
            findings.add("ok", "teacher", f"{name}: {text}")
    return total


def _vector_bytes(
    teacher: Encoder, run: PlannedRun, data: DataSets, texts: Mapping[Role, int]
) -> int:
    """Returns the bytes of one float32 vector per text, or of one float16 vector per token."""
    per_component: dict[Role, float] = {"query": 4.0, "document": 4.0}
    if isinstance(teacher, LateInteractionEncoder):
        negatives = run.recipe.data.negatives_per_query
        queries, documents = measure_lengths(teacher, data.train, negatives)
        query_tokens = (
            queries.limit_tokens if teacher.contract.query_expansion else queries.mean_tokens
        )
        per_component = {"query": 2.0 * query_tokens, "document": 2.0 * documents.mean_tokens}
    components = sum(count * per_component[role] for role, count in texts.items())
    return int(components * teacher.dimensions)
