"""The verdict on a run: did training help, on what evidence, and what to do next.

The terminal and the report both print it, so it is decided here and nowhere else.
"""

from dataclasses import dataclass

from trainer.evaluation.results import (
    BASE,
    BM25,
    MAIN_METRIC,
    Comparison,
    Evaluation,
    Selection,
    SystemResult,
)

CERTAIN = 0.05
"""A difference counts as proven when the p-value of the paired test is below this."""

_METRIC = MAIN_METRIC.replace("ndcg", "nDCG")
_BETTER_TRAINING = (
    "look at the training data (`nearfar data check`), lower optimization.learning_rate, or give"
    " more training pairs"
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One outcome in words. `headline` and `advice` are plain text and may hold names from the
    outside: escape them where they are shown.
    """

    success: bool
    """Whether the model is proven better than every system it was compared with."""
    headline: str
    """What was measured, in one or two sentences."""
    advice: str
    """What to do next; empty where there is nothing to do."""

    def __str__(self) -> str:
        return f"{self.headline} Next: {self.advice}." if self.advice else self.headline


def verdict(evaluation: Evaluation | None, selection: Selection | None = None) -> Verdict | None:
    """The verdict on a run from its test queries, or from the validation scores alone.

    `selection` is only read where there is no evaluation, which holds its own. Returns None where
    neither says anything.
    """
    chosen = evaluation.selection if evaluation is not None else selection
    if chosen is not None and chosen.base_won:
        return _base_won(chosen, evaluation)
    if evaluation is not None:
        return _from_test(evaluation)
    return None if chosen is None else _from_validation(chosen)


def strongest_rival(evaluation: Evaluation) -> SystemResult | None:
    """The best of the systems that the last one is compared with: base model or BM25."""
    rivals = [system for system in evaluation.systems[:-1] if MAIN_METRIC in system.metrics]
    return max(rivals, key=SystemResult.mean, default=None)


def _base_won(selection: Selection, evaluation: Evaluation | None) -> Verdict:
    if selection.best_score is None or selection.base_score is None:
        headline = (
            "Nothing was trained: model/ holds the model as it was before training, since no"
            " trained weights were validated."
        )
        return Verdict(False, headline, "run it again and let it reach its first validation")
    headline = (
        f"Training did not help: the best validation {_METRIC} was {selection.best_score:.3f}"
        f" (step {selection.best_step}) and {selection.base_score:.3f} before training, so model/"
        " holds the model as it was before training."
    )
    bm25 = _named(evaluation, BM25)
    base = _named(evaluation, BASE)
    if bm25 is not None and base is not None and bm25.mean() > base.mean():
        headline += f" BM25 finds more than it: {bm25.mean():.3f} against {base.mean():.3f}."
    if selection.base_score > 0.999:
        return Verdict(
            False, headline, "give validation queries that the base model does not answer already"
        )
    return Verdict(False, headline, _BETTER_TRAINING)


def _from_validation(selection: Selection) -> Verdict:
    before = (
        f"{selection.base_score:.3f} before training and "
        if selection.base_score is not None
        else ""
    )
    return Verdict(
        success=False,
        headline=(
            f"Validation {_METRIC} was {before}{selection.best_score:.3f} at step"
            f" {selection.best_step}; nothing was measured on test queries."
        ),
        advice="name judged queries that were not trained on as data.test",
    )


def _from_test(evaluation: Evaluation) -> Verdict:
    after, rival = evaluation.systems[-1], strongest_rival(evaluation)
    leaked = evaluation.leaked_queries or 0
    queries = _queries(evaluation)
    if rival is None:
        return Verdict(leaked == 0, f"{_METRIC} {after.mean():.3f} {queries}", _without(leaked))
    difference = next(
        (
            each
            for each in evaluation.comparisons
            if (each.before, each.metric) == (rival.name, MAIN_METRIC)
        ),
        None,
    )
    proven = difference is not None and difference.test.p_value < CERTAIN
    numbers = f"{rival.mean():.3f} ({rival.name}) to {after.mean():.3f}{_evidence(difference)}"
    if after.mean() > rival.mean() and proven:
        headline = f"{_METRIC} rose from {numbers} {queries}"
        return Verdict(leaked == 0, headline, _without(leaked))
    if rival.name == BM25:
        return _behind_bm25(evaluation, rival, proven, f"{_evidence(difference)} {queries}")
    if after.mean() < rival.mean() and proven:
        headline = f"Training made the model worse: {_METRIC} fell from {numbers} {queries}"
    else:
        headline = f"No proven gain: {_METRIC} went from {numbers} {queries}"
    return Verdict(False, headline, _without(leaked) or _BETTER_TRAINING)


def _behind_bm25(evaluation: Evaluation, bm25: SystemResult, proven: bool, rest: str) -> Verdict:
    after, base = evaluation.systems[-1], _named(evaluation, BASE)
    claim = "Not better than" if proven or after.mean() <= bm25.mean() else "No proven gain over"
    before = f" ({base.mean():.3f} before training)" if base is not None else ""
    headline = (
        f"{claim} BM25, which needs no training: {_METRIC} {after.mean():.3f}{before} against"
        f" {bm25.mean():.3f}{rest}"
    )
    advice = (
        "search with BM25 until the model is ahead of it; take a stronger model.backbone, give"
        " more training pairs, or add hard negatives (`nearfar mine`)"
    )
    return Verdict(False, headline, _without(evaluation.leaked_queries or 0) or advice)


def _named(evaluation: Evaluation | None, name: str) -> SystemResult | None:
    systems = evaluation.systems if evaluation is not None else ()
    return next(
        (each for each in systems if each.name == name and MAIN_METRIC in each.metrics), None
    )


def _queries(evaluation: Evaluation) -> str:
    """On which queries the figures were measured, and whether they were trained on."""
    count, leaked = len(evaluation.systems[-1].query_ids), evaluation.leaked_queries
    on = f"on {count:,} {evaluation.split} queries"
    if leaked is None:
        return f"{on}."
    if leaked == 0:
        return f"{on} that training never saw."
    return (
        f"{on}. This proves nothing: {leaked:,} of them {'was a' if leaked == 1 else 'were'}"
        f" training {'query' if leaked == 1 else 'queries'} too."
    )


def _without(leaked: int) -> str:
    return (
        "take the test queries out of data.train, or name others as data.test, and train again"
        if leaked
        else ""
    )


def _evidence(difference: Comparison | None) -> str:
    if difference is None:
        return ""
    test = difference.test
    p = "p < 0.001" if test.p_value < 0.001 else f"p = {test.p_value:.3f}"
    return (
        f" ({test.difference:+.3f}, 95 % interval {test.low:+.3f} to {test.high:+.3f}, {p})"
    ).replace("-", "−")
