"""Checks that a recipe and its data fit together."""

from collections.abc import Iterator
from itertools import accumulate

from trainer.build.refresh import check_refresh
from trainer.data.mixture import Mixture
from trainer.data.rows import Row, Rows
from trainer.errors import BadData
from trainer.recipe.schema.families import Recipe
from trainer.recipe.schema.objective import CosentObjective
from trainer.recipe.schema.ranking import RankingObjective


def check_objective(run: Recipe, rows: Rows, mixture: Mixture | None = None) -> None:
    """Raises BadData or BadRecipe when the rows lack what the objective, mining or a batch needs.

    It checks the first row of each data set, and the number of scores of all rows.
    """
    check_refresh(run)
    for source, first in _first_rows(run, rows, mixture):
        _check_scores(run, source, first)
    if (
        run.objective.reads_scores
        and run.data.negatives_per_query
        and (row := rows.first_unscored()) is not None
    ):
        raise BadData(
            f"{row.source}: {len(row.labels or ())} scores for {1 + len(row.negatives)}"
            " candidates, but the objective needs a score of each; give every row a list with one"
            " score per candidate, the positive's first"
        )
    if mixture:
        mixture.check_batch(run.optimization.batch_size)


def _first_rows(run: Recipe, rows: Rows, mixture: Mixture | None) -> Iterator[tuple[str, Row]]:
    """Yields the name and the first row of each data set."""
    sizes = mixture.sizes if mixture else (len(rows),)
    for source, first in zip(run.data.sources, accumulate(sizes, initial=0), strict=False):
        yield source.source, rows[first]


def _check_scores(run: Recipe, source: str, first: Row) -> None:
    """Raises BadData unless the data set has exactly the scores that the objective needs."""
    objective, scores = run.objective, len(first.labels or ())
    candidates = 1 + len(first.negatives)
    match objective:
        case CosentObjective():
            if not scores:
                raise BadData(
                    f"objective.kind=cosent needs a score for every pair, but {source} has no"
                    " column `score`; name it in data.columns"
                )
            return
        case RankingObjective() if objective.graded:
            candidates = candidates if run.data.negatives_per_query else 1
            if scores != candidates:
                raise BadData(
                    f"objective.graded=true needs a score of every candidate, the positive's first,"
                    f" but {source} has {scores} for {candidates}; give them in the column `scores`"
                    " (`score` for single pairs), or set objective.graded to false"
                )
            return
    if objective.reads_scores and objective.compares_own_candidates and scores != candidates:
        raise BadData(
            f"objective.kind={objective.kind} needs the teacher's score of every candidate,"
            f" the positive's first, but {source} has {scores} for {candidates} candidates;"
            " give them as a list in the column `scores`"
        )
    if scores == 1:
        raise BadData(
            f"{source} holds scored pairs, but objective.kind={objective.kind} would treat every"
            " pair as a positive; use objective.kind=cosent (or pointwise with"
            " objective.graded=true), or a file with only the positive pairs and without scores"
        )
