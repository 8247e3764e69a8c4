"""The verdict on a run: whether training helped, the evidence, and what to do next.

The terminal and the report both print it.
"""

from dataclasses import dataclass, replace

from trainer.data.summary.limitations import limitation_advice
from trainer.evaluation.results import (
    BASE,
    BM25,
    MAIN_METRIC,
    Comparison,
    Evaluation,
    Selection,
    SystemResult,
)
from trainer.evaluation.significance import POWER

_METRIC = MAIN_METRIC.replace("ndcg", "nDCG")
_IMPROVE_TRAINING = (
    "look at the training data (`nearfar data check`), lower optimization.learning_rate, or give"
    " more training pairs"
)
_FORGET_LESS = (
    "to keep more of what the model could do, save a smaller share of the change"
    " (validation.interpolate=true, or `nearfar blend`), lower optimization.learning_rate, or train"
    " for fewer steps (optimization.epochs, optimization.min_steps)"
)
_SEARCH_WITH_BM25 = (
    "search with BM25 until the model is ahead of it; take a stronger model.backbone, give more"
    " training pairs, or add hard negatives (`nearfar mine`)"
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A verdict in words. `headline` and `advice` may contain names of models: escape them."""

    success: bool
    """True when the model is proven better than every other system."""
    headline: str
    """What was measured, in one or two sentences."""
    advice: str
    """What to do next; may be empty."""
    general: tuple[str, ...] = ()
    """A sentence per general collection, and their mean change."""

    @property
    def lines(self) -> tuple[str, ...]:
        """The headline with the advice, and the lines on general collections."""
        advice = f" Next: {self.advice}." if self.advice else ""
        return (self.headline + advice, *self.general)

    def __str__(self) -> str:
        return "\n".join(self.lines)


def verdict(evaluation: Evaluation | None, selection: Selection | None = None) -> Verdict | None:
    """Returns the verdict on a run from its test queries, or from its validation scores alone.

    `selection` is used only without an evaluation, which has its own. Without both, it is None.
    """
    if evaluation is not None:
        selection = evaluation.selection
    if selection is not None and selection.base_won:
        outcome = _verdict_for_base(selection, evaluation)
        return _with_general(_with_limitations(outcome, selection, evaluation), evaluation)
    if evaluation is not None:
        outcome = _with_share(_verdict_from_test(evaluation), selection)
        return _with_general(_with_limitations(outcome, evaluation), evaluation)
    if selection is not None:
        outcome = _with_share(_verdict_from_validation(selection), selection)
        return _with_limitations(outcome, selection)
    return None


def sentence(limitation: str) -> str:
    """Returns a limitation as a sentence; "" without one.

    >>> sentence("searched among 5 answers: figures are too high")
    'Searched among 5 answers: figures are too high.'
    """
    return f"{limitation[0].upper()}{limitation[1:]}." if limitation else ""


def conclusion(comparison: Comparison) -> str:
    """Returns what a paired test proves, and otherwise which difference it would have seen."""
    if comparison.is_proven:
        return f"{'Better' if comparison.test.difference > 0 else 'Worse'}, proven."
    if comparison.test.better == comparison.test.worse == 0:
        return "No query differs."
    if comparison.detectable is None:
        return "Nothing is proven: it cannot be with so few queries."
    return (
        f"Nothing is proven: with these queries, a difference of {comparison.detectable:.3f} is"
        f" found with a probability of {POWER:.0%}."
    ).replace("%", " %")


def strongest_rival(evaluation: Evaluation) -> SystemResult | None:
    """Returns the best system other than the last one: base model or BM25."""
    rivals = [system for system in evaluation.systems[:-1] if MAIN_METRIC in system.metrics]
    return max(rivals, key=SystemResult.mean, default=None)


def mean_change(evaluation: Evaluation) -> float | None:
    """Returns the mean change by training over the general collections, each with the same weight;
    None if none of them has been measured before and after.
    """
    changes = [comparison.test.difference for comparison in _general_comparisons(evaluation)]
    return sum(changes) / len(changes) if changes else None


def _general_comparisons(evaluation: Evaluation) -> list[Comparison]:
    return [test for collection in evaluation.general for test in collection.comparisons]


def _with_general(outcome: Verdict, evaluation: Evaluation | None) -> Verdict:
    """Returns a verdict that also says what training has changed on general collections."""
    if evaluation is None or not evaluation.general:
        return outcome
    lines = [*map(_general_line, evaluation.general)]
    change = mean_change(evaluation)
    if change is not None and len(lines) > 1:
        text = f"{change:+.3f}".replace("-", "−")
        lines.append(f"general: mean change {text} over {len(lines)} collections.")
    is_worse = any(
        comparison.is_proven and comparison.test.difference < 0
        for comparison in _general_comparisons(evaluation)
    )
    advice = "; ".join(filter(None, [outcome.advice, _FORGET_LESS if is_worse else ""]))
    return replace(outcome, advice=advice, general=tuple(lines))


def _general_line(evaluation: Evaluation) -> str:
    base, model = evaluation.systems[0], evaluation.systems[-1]
    name = evaluation.set_name.removesuffix(f" {evaluation.split}")
    queries = " ".join([_queries(evaluation), sentence(evaluation.limitation)]).strip()
    line = f"general: {name} {_METRIC}"
    if not evaluation.comparisons:
        state = " and unchanged, since model/ holds the base model," if model.name == BASE else ""
        return f"{line} {model.mean():.3f}{state} {queries}"
    (comparison,) = evaluation.comparisons
    evidence = f"{_evidence(comparison)} {queries} {conclusion(comparison)}"
    return f"{line} {base.mean():.3f} to {model.mean():.3f}{evidence}"


def _with_share(outcome: Verdict, selection: Selection | None) -> Verdict:
    """Returns a verdict that also says when only a share of the change was saved."""
    if selection is None or selection.share_score is None:
        return outcome
    note = (
        f"model/ holds {100 * selection.share:.0f} % of the change by training, which was enough on"
        f" the validation queries ({selection.share_score:.3f}, all of it"
        f" {selection.best_score:.3f})."
    )
    return replace(outcome, headline=f"{outcome.headline} {note}")


def _with_limitations(outcome: Verdict, *results: Selection | Evaluation | None) -> Verdict:
    """Returns a verdict that also says why the figures of these results are too high."""
    limitations = [result.limitation for result in results if result and result.limitation]
    if not limitations:
        return outcome
    headline = " ".join([outcome.headline, *map(sentence, limitations)])
    advice = limitation_advice(limitations[0], "data.corpus").removesuffix(".")
    advice = f"{advice[0].lower()}{advice[1:]}"
    return replace(outcome, headline=headline, advice=outcome.advice or advice)


def _verdict_for_base(selection: Selection, evaluation: Evaluation | None) -> Verdict:
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
    bm25, base = _system(evaluation, BM25), _system(evaluation, BASE)
    if bm25 is not None and base is not None and bm25.mean() > base.mean():
        headline += f" BM25 finds more than it: {bm25.mean():.3f} against {base.mean():.3f}."
    if selection.base_score > 0.999:
        return Verdict(
            False, headline, "give validation queries that the base model does not answer already"
        )
    return Verdict(False, headline, _IMPROVE_TRAINING)


def _verdict_from_validation(selection: Selection) -> Verdict:
    base = (
        f"{selection.base_score:.3f} before training and "
        if selection.base_score is not None
        else ""
    )
    headline = (
        f"Validation {_METRIC} was {base}{selection.best_score:.3f} at step {selection.best_step};"
        " nothing was measured on test queries."
    )
    return Verdict(False, headline, "name judged queries that were not trained on as data.test")


def _verdict_from_test(evaluation: Evaluation) -> Verdict:
    model, rival = evaluation.systems[-1], strongest_rival(evaluation)
    fix_leak = _leak_advice(evaluation)
    if rival is None:
        headline = f"{_METRIC} {model.mean():.3f} {_queries(evaluation)}"
        return Verdict(not fix_leak, headline, fix_leak)
    comparison = _comparison(evaluation, rival)
    is_proven = comparison is not None and comparison.is_proven
    is_higher = model.mean() > rival.mean()
    evidence = f"{_evidence(comparison)} {_queries(evaluation)}"
    if comparison is not None and not is_proven:
        evidence += f" {conclusion(comparison)}"
    change = f"{rival.mean():.3f} ({rival.name}) to {model.mean():.3f}{evidence}"
    if is_higher and is_proven:
        return Verdict(not fix_leak, f"{_METRIC} rose from {change}", fix_leak)
    if rival.name == BM25:
        claim = "No proven gain over" if is_higher else "Not better than"
        base = _system(evaluation, BASE)
        start = f" ({base.mean():.3f} before training)" if base is not None else ""
        headline = (
            f"{claim} BM25, which needs no training: {_METRIC} {model.mean():.3f}{start} against"
            f" {rival.mean():.3f}{evidence}"
        )
        return Verdict(False, headline, fix_leak or _SEARCH_WITH_BM25)
    if is_proven:
        headline = f"Training made the model worse: {_METRIC} fell from {change}"
    else:
        headline = f"No proven gain: {_METRIC} went from {change}"
    return Verdict(False, headline, fix_leak or _IMPROVE_TRAINING)


def _system(evaluation: Evaluation | None, name: str) -> SystemResult | None:
    systems = evaluation.systems if evaluation is not None else ()
    return next(
        (system for system in systems if system.name == name and MAIN_METRIC in system.metrics),
        None,
    )


def _comparison(evaluation: Evaluation, rival: SystemResult) -> Comparison | None:
    """Returns the paired test of the last system against a rival, by the main metric."""
    key = (rival.name, MAIN_METRIC)
    return next(
        (
            comparison
            for comparison in evaluation.comparisons
            if (comparison.baseline, comparison.metric) == key
        ),
        None,
    )


def _queries(evaluation: Evaluation) -> str:
    """Describes the measured queries, and says whether they were training queries."""
    count, leaks = len(evaluation.systems[-1].query_ids), evaluation.leaked_queries
    on = f"on {count:,} {evaluation.split} queries"
    if leaks is None:
        return f"{on}."
    if leaks == 0:
        return f"{on} that training never saw."
    training_queries = "was a training query" if leaks == 1 else "were training queries"
    return f"{on}. This proves nothing: {leaks:,} of them {training_queries} too."


def _leak_advice(evaluation: Evaluation) -> str:
    """Returns what to do about test queries that were trained on; empty without such queries."""
    if not evaluation.leaked_queries:
        return ""
    return "take the test queries out of data.train, or name others as data.test, and train again"


def _evidence(comparison: Comparison | None) -> str:
    if comparison is None:
        return ""
    test = comparison.test
    value = comparison.corrected_p_value
    p = "p < 0.001" if value < 0.001 else f"p = {value:.3f}"
    return (
        f" ({test.difference:+.3f}, 95 % interval {test.low:+.3f} to {test.high:+.3f}, {p})"
    ).replace("-", "−")
