"""What a recipe says of negatives that are mined anew while training (`refresh`), as objects."""

import re
from collections.abc import Iterator
from pathlib import Path

from trainer.batch import identity
from trainer.build import hardware
from trainer.collectives import on_first
from trainer.data.mined_negatives import Boundaries
from trainer.data.rows import Rows
from trainer.errors import BadData, BadRecipe
from trainer.mining.choose import Options
from trainer.mining.refresh import Refresh
from trainer.mining.task import corpus_texts, read_task, write_task
from trainer.models.encoder import Encoder
from trainer.models.late_interaction import LateInteractionEncoder
from trainer.recipe import schema as recipe


def check_refresh(run: recipe.Recipe) -> None:
    """Raises BadRecipe where negatives cannot be mined anew for this recipe, and BadData for
    further documents that are not there.
    """
    if run.refresh is None:
        return
    objective, settings = run.objective, run.refresh
    if run.kind == "cross_encoder":
        raise BadRecipe(
            "refresh searches with the vectors of the model that is trained, and a cross-encoder "
            "has none; mine once with another model (`nearfar mine`) and set "
            "data.negatives_per_query"
        )
    if not isinstance(objective, recipe.Contrastive | recipe.Triplet):
        raise BadRecipe(
            f"objective.kind={objective.kind} learns from scores of the data, which newly mined "
            f"documents have not, so it does not go with refresh; "
            "use contrastive or triplet, with a section `teacher` where a model is to teach"
        )
    if isinstance(objective, recipe.Contrastive) and objective.teacher_margin is not None:
        raise BadRecipe(
            "objective.teacher_margin reads scores of the data, which newly mined documents have "
            "not; take it out, or use objective.guide"
        )
    compares_own = isinstance(objective, recipe.Triplet) or isinstance(
        run.teacher, recipe.TaughtMargins
    )
    compares_own |= (
        isinstance(run.teacher, recipe.TaughtDistribution) and run.teacher.candidates == "own"
    )
    if compares_own and settings.first_step and not run.data.negatives_per_query:
        raise BadRecipe(
            f"before refresh.first_step={settings.first_step} queries have no negatives to be "
            f"compared with; set it to 0, or data.negatives_per_query to 1 or more"
        )
    if settings.corpus is not None and not Path(settings.corpus).exists():
        raise BadData(
            f"refresh.corpus={settings.corpus} is not there; give a file or folder of documents, "
            f"or null"
        )
    options(run)


def options(run: recipe.Recipe) -> Options:
    """The rules of mining. Raises BadRecipe where they contradict each other."""
    assert run.refresh is not None
    try:
        return Options(
            **run.refresh.model_dump(exclude={"every_steps", "first_step", "corpus"}), seed=run.seed
        )
    except BadRecipe as error:
        raise BadRecipe(
            re.sub(
                r"--([a-z-]+)", lambda option: f"refresh.{option[1].replace('-', '_')}", str(error)
            )
        ) from error


def searched_texts(run: recipe.Recipe, rows: Rows) -> Iterator[str]:
    """Every document that may be mined; nothing without `refresh`."""
    if run.refresh is None:
        return iter(())
    return corpus_texts(
        [each.source for each in run.data.sources],
        rows,
        run.refresh.corpus,
        run.data.max_bad_rows_ratio,
    )


def boundaries(settings: recipe.Refresh, steps: int) -> Boundaries:
    """When negatives are mined. Raises BadRecipe where that is never."""
    if settings.first_step >= steps:
        raise BadRecipe(
            f"refresh.first_step={settings.first_step} is never reached: the run has {steps} "
            f"steps; set it lower"
        )
    return Boundaries(settings.first_step, settings.every_steps)


def refresh(run: recipe.Recipe, rows: Rows, folder: Path, steps: int) -> Refresh | None:
    """What mines anew, with its texts written into `folder`, which all ranks must see; None without
    `refresh`. To be called on all ranks.
    """
    if run.refresh is None:
        return None
    at, place = boundaries(run.refresh, steps), folder / "task"

    def write() -> None:
        place.mkdir(parents=True, exist_ok=True)
        write_task(place, rows, searched_texts(run, rows))

    on_first(write)
    tokens = hardware.micro_batch_tokens(run.machine)
    return Refresh(folder, read_task(place), at, options(run), run.data.negatives_per_query, tokens)


def written_bytes(run: recipe.Recipe, rows: Rows, encoder: Encoder, document_tokens: float) -> int:
    """What mining anew keeps on the disk meanwhile, about: the texts of all documents and their
    vectors in float32. `document_tokens`: on average.
    """
    sizes = {
        identity(text): len(text.encode("utf-8", "replace")) for text in searched_texts(run, rows)
    }
    vectors = document_tokens if isinstance(encoder, LateInteractionEncoder) else 1
    return sum(sizes.values()) + int(4 * encoder.dimensions * vectors * len(sizes))


def explanation(run: recipe.Recipe, rows: Rows, steps: int) -> str:
    """What mining anew comes to, in one line."""
    assert run.refresh is not None
    at = [
        span.start for span in boundaries(run.refresh, steps).spans(run.refresh.first_step, steps)
    ]
    documents = len({identity(text) for text in searched_texts(run, rows)})
    queries = min(len(rows), run.refresh.every_steps * run.optimization.batch_size)
    times = (
        f"{len(at):,} times, after "
        f"{', '.join(map(str, at[:3]))}{', ...' if len(at) > 3 else ''} steps"
    )
    return (
        f"{run.refresh.negatives} negatives a query are mined {times}: {documents:,} documents "
        f"are encoded and up to {queries:,} queries search them"
    )
