"""Builds the section `refresh` of a recipe: hard negatives that are mined during training."""

import re
from collections.abc import Iterator
from pathlib import Path

from trainer.batch import identity
from trainer.build import hardware
from trainer.collectives import integers_of_first_rank, on_first_rank
from trainer.data.mined_negatives import Boundaries
from trainer.data.readers.beir import is_beir_folder
from trainer.data.rows import Rows
from trainer.errors import BadData, BadRecipe
from trainer.mining.choose import MiningRules
from trainer.mining.refresh import Refresh
from trainer.mining.task import corpus_texts, read_task, write_task
from trainer.models.encoder import Encoder, VectorEncoder
from trainer.recipe.schema.base import BaseRecipe
from trainer.recipe.schema.families import Recipe
from trainer.recipe.schema.refresh import RefreshSection


def check_refresh(run: Recipe) -> None:
    """Raises BadRecipe when the rules of mining contradict each other.

    Raises BadData when the file of further documents does not exist.
    """
    settings = run.refresh_section
    if settings is None:
        return
    if settings.corpus is not None and not Path(settings.corpus).exists():
        raise BadData(
            f"refresh.corpus={settings.corpus} does not exist; give a file or folder of documents,"
            " or null"
        )
    mining_rules(settings, run.seed)


def mining_rules(settings: RefreshSection, seed: int) -> MiningRules:
    """Returns the rules of mining. Raises BadRecipe when they contradict each other."""
    rules = settings.model_dump(exclude={"every_steps", "first_step", "corpus", "max_documents"})
    try:
        return MiningRules(**rules, seed=seed)
    except BadRecipe as error:
        raise BadRecipe(
            re.sub(
                r"--([a-z-]+)", lambda option: f"refresh.{option[1].replace('-', '_')}", str(error)
            )
        ) from error


def searched_texts(run: BaseRecipe, rows: Rows) -> Iterator[str]:
    """Returns all documents that may become negatives; none without `refresh`."""
    settings = run.refresh_section
    if settings is None:
        return iter(())
    return corpus_texts(
        [source.source for source in run.data.sources],
        rows,
        settings.corpus,
        run.data.max_bad_rows_ratio,
    )


def limit_mining(run: Recipe, rows: Rows) -> tuple[Recipe, str]:
    """Returns the recipe without `refresh`, and a warning that says so, if more documents than
    `refresh.max_documents` would be searched; otherwise the recipe as it is, and "".

    The first rank counts them. All ranks must call it.
    """
    settings = run.refresh_section
    if settings is None or settings.max_documents is None:
        return run, ""
    limit = settings.max_documents
    if not any(integers_of_first_rank(lambda: [_has_more_documents(run, rows, limit)])):
        return run, ""
    return run.without_refresh(), (
        f"no negatives are mined, because more than {limit:,} documents (refresh.max_documents)"
        " would be encoded each time; raise it, or mine once with `nearfar mine`"
    )


def _has_more_documents(run: Recipe, rows: Rows, limit: int) -> bool:
    documents = set[int]()
    for text in searched_texts(run, rows):
        documents.add(identity(text))
        if len(documents) > limit:
            return True
    return False


def boundaries(settings: RefreshSection, steps: int) -> Boundaries:
    """Returns the steps at which negatives are mined. Raises BadRecipe when there are none."""
    if settings.first_step >= steps:
        raise BadRecipe(
            f"refresh.first_step={settings.first_step} is never reached, because the run has"
            f" {steps} steps; use a lower value"
        )
    return Boundaries(settings.first_step, settings.every_steps)


def refresh(run: Recipe, rows: Rows, folder: Path, steps: int) -> Refresh | None:
    """Returns the callback that mines negatives during training, or None without `refresh`.

    It writes the texts to `folder`, which all ranks must see. All ranks must call it.
    """
    settings = run.refresh_section
    if settings is None:
        return None
    at, place = boundaries(settings, steps), folder / "task"

    def write() -> None:
        place.mkdir(parents=True, exist_ok=True)
        write_task(place, rows, searched_texts(run, rows))

    on_first_rank(write)
    machine, own_negatives = run.machine, run.data.negatives_per_query
    rules, tokens = mining_rules(settings, run.seed), hardware.micro_batch_tokens(machine)
    # In float32, the negatives are the same on any number of ranks; on a GPU it is too slow.
    on_gpu = hardware.accelerator(machine) == "cuda"
    precision = hardware.precision(machine) if on_gpu else "fp32"
    return Refresh(folder, read_task(place), at, rules, own_negatives, tokens, precision)


def written_bytes(run: Recipe, rows: Rows, encoder: Encoder, document_tokens: float) -> int:
    """Estimates the bytes that mining writes: texts of all documents and vectors in float32.

    `document_tokens` is the mean number of tokens per document.
    """
    if run.refresh_section is None:
        return 0
    assert isinstance(encoder, VectorEncoder)
    sizes = {
        identity(text): len(text.encode("utf-8", "replace")) for text in searched_texts(run, rows)
    }
    vectors = encoder.vectors_per_text("document", document_tokens)
    return sum(sizes.values()) + int(4 * encoder.dimensions * vectors * len(sizes))


def explanation(run: Recipe, rows: Rows, steps: int) -> str:
    """Returns one line that says when and among how many documents negatives are mined."""
    settings = run.refresh_section
    assert settings is not None
    spans = boundaries(settings, steps).spans(settings.first_step, steps)
    starts = [span.start for span in spans]
    documents = len({identity(text) for text in searched_texts(run, rows)})
    queries = min(len(rows), settings.every_steps * run.optimization.batch_size)
    has_folder = any(is_beir_folder(Path(source.source)) for source in run.data.sources)
    has_corpus = has_folder or settings.corpus is not None
    remark = "" if has_corpus else " (of the training pairs alone; refresh.corpus adds others)"
    first = f"{', '.join(map(str, starts[:3]))}{', ...' if len(starts) > 3 else ''}"
    times = "once" if len(starts) == 1 else f"{len(starts):,} times"
    return (
        f"{settings.negatives} negatives per query are mined {times}, after"
        f" {first} steps: {documents:,} documents{remark} are encoded, and up to {queries:,}"
        " queries search them"
    )
