"""What `nearfar check` finds of teachers: whether they load, whether what is kept of them is
theirs, and how much there is to encode and to keep.
"""

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainer.build.data import DataSets
    from trainer.models.encoder import Encoder
    from trainer.preflight.estimates import Findings
    from trainer.recipe.schema.families import Recipe


def look_at_teachers(findings: "Findings", run: "Recipe", data: "DataSets", replace: bool) -> int:
    """A finding for each teacher; bytes that their vectors of the training texts will take."""

    from trainer.build import students
    from trainer.build.refresh import searched_texts
    from trainer.models.families import read_model
    from trainer.preflight.estimates import size
    from trainer.recipe.schema.families import VectorRecipe
    from trainer.retrieval.vectors.taught_vectors import content_of, names_of, to_do

    if not isinstance(run, VectorRecipe) or run.teacher is None:
        return 0
    names, everything = (
        names_of(
            data.train, run.data.negatives_per_query, partial(searched_texts, run, data.train)
        ),
        0,
    )
    for name in run.teacher.models:
        with findings.of("teacher"):
            teacher, told = read_model(name), list[str]()
            to_do(students.kept_in(run, name), content_of(teacher), names, replace, told.append)
            said = (
                told[0]
                if told
                else f"its vectors of the training texts are in {students.kept_in(run, name)}"
            )
            wanted = (
                _bytes(teacher, run, data, {role: len(texts) for role, texts in names.items()})
                if told
                else 0
            )
            weights = size(4 * sum(parameter.numel() for parameter in teacher.parameters()))
            findings.add(
                "ok",
                "teacher",
                f"{name}: {said}"
                + (
                    f", about {size(wanted)}; {weights} of weights on each rank until then"
                    if told
                    else ""
                ),
            )
            everything += wanted
    return everything


def _bytes(teacher: "Encoder", run: "Recipe", data: "DataSets", texts: "dict[str, int]") -> int:
    """Of one float32 vector a text, or one of float16 a token."""
    from trainer.models.late_interaction import LateInteractionEncoder
    from trainer.preflight.estimates import lengths

    each = {"query": 4.0, "document": 4.0}
    if isinstance(teacher, LateInteractionEncoder):
        queries, documents = lengths(teacher, data.train, run.data.negatives_per_query)
        each = {
            "query": (
                2.0
                * (
                    queries.limit_tokens
                    if teacher.contract.query_expansion
                    else queries.mean_tokens
                )
            ),
            "document": 2.0 * documents.mean_tokens,
        }
    return int(sum(count * each[role] * teacher.dimensions for role, count in texts.items()))
