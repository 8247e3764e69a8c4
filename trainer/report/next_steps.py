"""What to do next: rules that read the figures of a run, each with the figure that it saw."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from trainer.data.summary.document_shortage import ADVICE
from trainer.evaluation.results import BASE, BM25, MAIN_METRIC
from trainer.report.charts.line_chart import moving_average
from trainer.report.data_section import RoleLengths
from trainer.report.read import Run
from trainer.report.text import metric_name

RISING = 0.003
"""A curve that gained more than this in its last interval had not reached its end."""
FALLEN = 0.005
"""A curve that ends this far below its best score has fallen."""
MANY_CUT_RATIO = 0.1
"""A larger share of texts that are cut should be looked at."""
EASY_LOSS = 0.05
"""A contrastive loss below this leaves little to learn.

The loss is -log of the positive's probability among the candidates, so the positive has 95 % of it.
The gradient of the scores is the rest, a twentieth of what it can be.
"""
EARLY_RATIO = 0.25
"""A loss that becomes small within this share of the steps does so too early: the other three
quarters of the steps still change the weights, and teach little.
"""
BM25_SHARE = 0.1
"""BM25 adds something when it is better for a larger share of the queries."""

_SMOOTHING = 0.9
_METRIC = metric_name(MAIN_METRIC)


@dataclass(frozen=True, slots=True)
class NextStep:
    """Advice, and the figure that it follows from. Both may have code in backticks."""

    advice: str
    reason: str


def next_steps(run: Run) -> list[NextStep]:
    """Returns the advice of all rules that apply to a run, in the order of RULES."""
    return [step for rule in RULES for step in rule(run)]


def _curve(run: Run) -> list[tuple[int, float]]:
    """Returns the steps and scores of all validations."""
    points = zip(*run.series(f"validation/{MAIN_METRIC}"), strict=True)
    return [(step, score) for step, score in points if score is not None]


def rising_curve(run: Run) -> Iterator[NextStep]:
    """More steps, if the last validation is the best and the score still rose."""
    curve = _curve(run)
    if run.status.get("status") != "done" or len(curve) < 3:
        return
    (former_step, former), (step, last) = curve[-2:]
    if last < max(score for _, score in curve) or last - former < RISING:
        return
    settings = run.recipe.optimization if run.recipe is not None else None
    advice = "Train longer"
    if settings is not None:
        limits = ("max_steps", "min_steps")
        key = next((key for key in limits if getattr(settings, key) == step), "epochs")
        advice += f", such as `optimization.{key}={2 * getattr(settings, key)}`"
    yield NextStep(
        advice,
        f"The validation {_METRIC} still rose at the end, from {former:.3f} at step"
        f" {former_step:,} to {last:.3f} at step {step:,}",
    )


def falling_curve(run: Run) -> Iterator[NextStep]:
    """A lower rate, if the best trained score came early and was lost again."""
    curve = _curve(run)
    if len(curve) < 3:
        return
    best_step, best = max(curve[1:], key=lambda point: point[1])
    last_step, last = curve[-1]
    if best - last < FALLEN or best_step > last_step / 2:
        return
    settings = run.recipe.optimization if run.recipe is not None else None
    value = f" (`optimization.learning_rate`, now {settings.learning_rate:g})" if settings else ""
    yield NextStep(
        f"Lower the learning rate{value}, or train for fewer steps",
        f"The validation {_METRIC} was best early, {best:.3f} at step {best_step:,}, and fell to"
        f" {last:.3f} at step {last_step:,}",
    )


def cut_texts(run: Run) -> Iterator[NextStep]:
    """A longer maximum, if many texts are cut."""
    for lengths in run.data.lengths if run.data is not None else ():
        if lengths.cut_share > MANY_CUT_RATIO:
            yield NextStep(*_advice_on_length(lengths))


def _advice_on_length(lengths: RoleLengths) -> tuple[str, str]:
    is_query = lengths.role == "query"
    name, advice = ("queries", "") if is_query else ("documents", ", or split them into passages")
    return (
        f"Raise `model.{lengths.role}_max_length_tokens` if the model takes longer texts{advice}",
        f"{lengths.cut_share:.0%} of the {name} are longer than {lengths.limit_tokens:,} tokens,"
        " and what follows is not read",
    )


def unproven_gain(run: Run) -> Iterator[NextStep]:
    """More queries or pairs, if base and tuned model cannot be told apart."""
    comparisons = run.evaluation.comparisons if run.evaluation is not None else ()
    pairs = f" (now {run.data.training['pairs']:,})" if run.data is not None else ""
    for comparison in comparisons:
        if (comparison.baseline, comparison.metric) != (BASE, MAIN_METRIC) or comparison.is_proven:
            continue
        queries = comparison.test.better + comparison.test.equal + comparison.test.worse
        limit = (
            f", which would show a difference of {comparison.detectable:.3f}"
            if comparison.detectable
            else ""
        )
        yield NextStep(
            f"Judge more test queries, or give more training pairs{pairs}",
            f"p = {comparison.corrected_p_value:.2f}: the model cannot be told apart from the base"
            f" model on {queries:,} test queries{limit}",
        )


def useful_bm25(run: Run) -> Iterator[NextStep]:
    """Both rankings together, if BM25 is better for many queries."""
    systems = run.evaluation.systems if run.evaluation is not None else ()
    systems_by_name = {system.name: system for system in systems if MAIN_METRIC in system.metrics}
    model, bm25 = systems[-1] if systems else None, systems_by_name.get(BM25)
    if bm25 is None or model is None or model.name not in systems_by_name or model is bm25:
        return
    is_better = bm25.metrics[MAIN_METRIC] > model.metrics[MAIN_METRIC] + 1e-9
    queries, share = int(is_better.sum()), float(is_better.mean())
    if share > BM25_SHARE:
        yield NextStep(
            "Combine the rankings of the model and of BM25 (hybrid search);"
            f" `nearfar evaluate {run.folder} hybrid:{run.folder}/model+bm25` measures it",
            f"BM25 has the higher {_METRIC} for {queries:,} of {len(is_better):,} test queries"
            f" ({share:.0%}); its mean is {bm25.mean():.3f}, the model's {model.mean():.3f}",
        )


def few_documents(run: Run) -> Iterator[NextStep]:
    """More documents or less training, if the pairs have few different documents."""
    if run.data is not None and run.data.document_shortage:
        problem = run.data.document_shortage
        yield NextStep(ADVICE, problem[0].upper() + problem[1:])


def easy_pairs(run: Run) -> Iterator[NextStep]:
    """Hard negatives, if the contrastive loss is near zero almost at once, and stays there."""
    recipe = run.recipe
    if recipe is not None and (recipe.objective.kind != "contrastive" or recipe.teacher_models):
        return
    steps, losses = run.series("train/loss")
    # Averages from the end: that of a step is over this step and those after it.
    averages = moving_average(losses[::-1], _SMOOTHING)
    is_easy = [average is not None and average < EASY_LOSS for average in averages]
    easy_steps = is_easy.index(False) if False in is_easy else len(is_easy)
    if len(steps) >= 10 and easy_steps >= (1 - EARLY_RATIO) * len(steps):
        yield NextStep(
            "Mine hard negatives (`nearfar mine`), take larger batches, or train for fewer steps",
            f"The training loss is below {EASY_LOSS} from about step {steps[-easy_steps]:,} of"
            f" {steps[-1]:,} on, so the pairs are easy to tell apart, and little is left to learn",
        )


def shared_queries(run: Run) -> Iterator[NextStep]:
    """Another split, if training has queries of the test."""
    leaks = run.data.leaks if run.data is not None else ()
    queries = sum(leak.count for leak in leaks if leak.split == "test" and "query" in leak.kind)
    if queries:
        yield NextStep(
            "Split the data again, so that the test has no query of training"
            " (`nearfar data split`)",
            f"{queries:,} test queries are the same as, or nearly the same as, training queries",
        )


RULES: tuple[Callable[[Run], Iterator[NextStep]], ...] = (
    shared_queries,
    unproven_gain,
    falling_curve,
    rising_curve,
    few_documents,
    cut_texts,
    easy_pairs,
    useful_bm25,
)
"""The rules, the most important ones first."""
