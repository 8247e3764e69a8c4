"""What a recipe and its data must not say together: of its kind of model, its objective, and the
rows it learns from.
"""

from itertools import accumulate

from trainer.build import cross_encoder as build_cross_encoder
from trainer.build.refresh import check_refresh
from trainer.data.mixture import Mixture
from trainer.data.rows import Rows
from trainer.errors import BadData, BadRecipe
from trainer.recipe import schema as recipe
from trainer.recipe.student_checks import check_student


def check_family(run: recipe.Recipe) -> None:
    """Raises BadRecipe where the recipe sets what its kind of model does not have."""
    model = run.model
    build_cross_encoder.check_recipe(run)
    if run.kind == "bi_encoder" and model.late_interaction is not None:
        raise BadRecipe(
            "model.late_interaction belongs to kind: colbert, and this recipe is of kind "
            "bi_encoder; take it out, or change the kind"
        )
    if run.kind == "colbert" and (model.pooling is not None or model.normalize is not None):
        key = "pooling" if model.pooling is not None else "normalize"
        raise BadRecipe(
            f"model.{key} belongs to kind: bi_encoder; a colbert model keeps a vector of length 1 "
            f"for each token, so take it out"
        )
    if (
        run.kind == "bi_encoder"
        and isinstance(run.objective, recipe.Contrastive)
        and run.objective.xtr_top_k is not None
    ):
        raise BadRecipe(
            "objective.xtr_top_k belongs to kind: colbert, whose queries have tokens that "
            "retrieve; take it out, or change the kind"
        )
    if (
        run.kind == "colbert"
        and isinstance(run.objective, recipe.Contrastive)
        and run.objective.guide is not None
    ):
        raise BadRecipe(
            "objective.guide belongs to kind: bi_encoder: a guide scores with one vector a text; "
            "take it out"
        )


def check_objective(run: recipe.Recipe, rows: Rows, mixture: Mixture | None = None) -> None:
    """Raises BadData or BadRecipe when the rows lack what the objective or a batch needs: of each
    set the first is looked at, and of all the scores.
    """
    check_family(run)
    check_student(run)
    check_refresh(run)
    if isinstance(run.objective, recipe.Cosent) and run.data.negatives_per_query:
        raise BadRecipe(
            "objective.kind=cosent learns from scored pairs, not from hard negatives; set "
            "data.negatives_per_query to 0"
        )
    if isinstance(run.objective, recipe.Triplet) and run.negatives_per_query == 0:
        raise BadRecipe(
            "objective.kind=triplet compares with hard negatives; set data.negatives_per_query to "
            "1 or more, or mine them with refresh"
        )
    taught = isinstance(run.objective, recipe.Distillation | recipe.MarginMse)
    if taught and run.data.negatives_per_query == 0:
        raise BadRecipe(
            f"objective.kind={run.objective.kind} compares a query's own candidates; set "
            f"data.negatives_per_query to 1 or more"
        )
    sizes = mixture.sizes if mixture else (len(rows),)
    for source, first in zip(run.data.sources, accumulate(sizes, initial=0), strict=False):
        labels = rows[first].labels
        build_cross_encoder.check_grades(run, source.source, rows[first])
        if isinstance(run.objective, recipe.Cosent) and labels is None:
            raise BadData(
                f"objective.kind=cosent needs a score for every pair, but {source.source} has no "
                f"column `score`; name it in data.columns"
            )
        if taught and (labels is None or len(labels) != 1 + len(rows[first].negatives)):
            raise BadData(
                f"objective.kind={run.objective.kind} needs the teacher's score of every "
                f"candidate, the positive's first, and {source.source} has "
                f"{len(labels or ())} for {1 + len(rows[first].negatives)} candidates; give them "
                f"as a list in the column `scores`"
            )
        graded = isinstance(run.objective, recipe.Cosent) or (
            isinstance(run.objective, recipe.Ranking) and run.objective.graded
        )
        if not graded and labels is not None and len(labels) == 1:
            raise BadData(
                f"{source.source} holds scored pairs, and objective.kind={run.objective.kind} "
                f"would take every pair for a positive; "
                "use objective.kind=cosent (or pointwise with objective.graded=true), or a file "
                "of the positive pairs alone, without scores"
            )
    compared = (
        taught
        or getattr(run.objective, "graded", False)
        or getattr(run.objective, "teacher_margin", None) is not None
    )
    if compared and run.data.negatives_per_query and (row := rows.first_unscored()) is not None:
        raise BadData(
            f"{row.source}: {len(row.labels or ())} scores for {1 + len(row.negatives)} "
            f"candidates, and the objective compares the scores of all; "
            "give every row a list of one score a candidate, the positive's first"
        )
    if mixture:
        mixture.check_batch(run.optimization.batch_size)
