"""Checks the teachers of a run: they must load. Estimates the size of the vectors to store."""

from collections.abc import Mapping
from functools import partial

import numpy as np

from trainer.build import students
from trainer.build.data import DataSets
from trainer.build.data_facts.lengths import measure_lengths
from trainer.build.refresh import searched_texts
from trainer.models.contracts.text import Role
from trainer.models.encoder import VectorEncoder
from trainer.models.families import read_model
from trainer.preflight.findings import Findings
from trainer.preflight.planned_run import PlannedRun
from trainer.preflight.sizes import format_bytes
from trainer.retrieval.encoding.needed_vectors import ROLES, names_of, needed_vectors
from trainer.retrieval.encoding.taught_vectors import to_do


def check_teachers(findings: Findings, run: PlannedRun, data: DataSets) -> int:
    """Adds a finding per teacher, and returns the bytes of their vectors of the training texts."""
    settings = run.recipe
    if not settings.teacher_models:
        return 0
    further_texts = partial(searched_texts, settings, data.train)
    texts = names_of(data.train, settings.data.negatives_per_query, further_texts)
    total = 0
    for name in settings.teacher_models:
        with findings.catch("teacher"):
            teacher, tasks = read_model(name), list[str]()
            folder = students.vectors_folder(settings, name)
            to_do(folder, needed_vectors(teacher, texts), run.replace, tasks.append)
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
    teacher: VectorEncoder, run: PlannedRun, data: DataSets, texts: Mapping[Role, int]
) -> int:
    """Returns the bytes of the vectors of these texts on disk."""
    negatives = run.recipe.data.negatives_per_query
    queries, documents = measure_lengths(teacher, data.train, negatives)
    rows = 0.0
    for role, lengths in zip(ROLES, (queries, documents), strict=True):
        rows += texts[role] * teacher.rows_per_text(role, lengths.mean_tokens)
    width = teacher.vectors.row_width(teacher.dimensions)
    return int(rows * width * np.dtype(teacher.vectors.COMPACT).itemsize)
