"""Generated training pairs full of duplicates and twins, a job on them in one call, and the obvious
twin of a miner.
"""

import json
from functools import cache

import numpy as np

from trainer.batch import identity
from trainer.collectives import on_first
from trainer.data.near_duplicates import normal_form
from trainer.data.rows import Row, Rows
from trainer.mining.choose import Options, drawn
from trainer.mining.mine import mine_shards
from trainer.mining.spaces import space_of
from trainer.mining.task import corpus_texts, read_task, write_task
from trainer.mining.work import NEGATIVES, WITHOUT, WorkFolder, held
from trainer.models.dense import read_encoder

WORDS = (
    "delete",
    "disk",
    "create",
    "storage",
    "account",
    "show",
    "database",
    "machine",
    "list",
    "query",
    "region",
    "second",
)
LIMITLESS = {"percent_of_positive": 0.0}


def phrase(generator, words=3):
    return " ".join(generator.choice(WORDS, size=words))


def disguised(text, generator):
    """The same text in another normal writing."""
    return [text, text.upper(), f"{text}.", f"  {text.replace(' ', '  ')}!"][generator.integers(4)]


def generated(seed, pairs=30, further=15):
    """Training rows and further documents: queries with several positives, twins of positives and
    queries among all of them.
    """
    generator = np.random.default_rng(seed)
    rows, documents = [], []
    for _ in range(pairs):
        if rows and generator.random() < 0.3:
            old = rows[generator.integers(len(rows))]
            query, positive = disguised(old.query, generator), phrase(generator)
        elif rows and generator.random() < 0.2:
            query, positive = (
                phrase(generator, 2),
                disguised(rows[generator.integers(len(rows))].positive, generator),
            )
        else:
            query, positive = phrase(generator, 2), phrase(generator)
        negatives = tuple(
            disguised(positive, generator) if generator.random() < 0.3 else phrase(generator)
            for _ in range(2)
        )
        rows.append(Row(query, positive, tuple(text for text in negatives if text != positive)))
    for _ in range(further):
        row = rows[generator.integers(len(rows))]
        documents.append(
            disguised(
                [row.positive, row.query, phrase(generator)][generator.integers(3)], generator
            )
        )
    return rows, documents


def run_job(
    folder,
    rows,
    model,
    options,
    further=(),
    teacher=None,
    manifest=None,
    kind=read_encoder,
    **space,
):
    """Lines, queries without negatives and the report of a job in `folder`, begun or gone on
    with.
    """
    job = WorkFolder(folder)
    stored = Rows.of(rows)
    manifest = manifest or {"model": str(model)}

    def begin():
        with held(job.path):
            job.begin(manifest, replace=False)
            write_task(job.work, stored, [*further, *corpus_texts(["memory"], stored, None, 0.0)])

    on_first(begin)
    task = read_task(job.work)
    made = space_of(loaded(kind, str(model)), task, job.work / "model", **space)
    scorer = teacher(task, job.work) if teacher else None
    report = mine_shards(job, manifest, task, made, options, scorer)
    return lines_of(job.path / NEGATIVES), lines_of(job.path / WITHOUT), report


@cache
def loaded(kind, model):
    return kind(model)


def lines_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def form(text):
    return identity(normal_form(text))


def no_negatives(rows):
    """Form of a query to the forms of what may be no negative for it, found row by row."""
    known = {}
    for row in rows:
        known.setdefault(form(row.query), {form(row.query)}).add(form(row.positive))
    return known


def by_hand(rows, further, score, options: Options):
    """Query to its negatives by the model, in the words of the definition; `score` gives that of
    two texts.
    """
    documents = list(
        dict.fromkeys(
            [
                *further,
                *(row.positive for row in rows),
                *(text for row in rows for text in row.negatives),
            ]
        )
    )
    known, found = no_negatives(rows), {}
    for query in dict.fromkeys(row.query for row in rows):
        lowest = min(score(query, row.positive) for row in rows if row.query == query)
        free = [document for document in documents if form(document) not in known[form(query)]]
        ranked = sorted(free, key=lambda document: -score(query, document))[
            options.skip_top : options.depth
        ]
        kept = [
            document for document in ranked if _allowed(score(query, document), lowest, options)
        ]
        if options.pick == "random":
            draws = {
                document: int(
                    drawn(
                        np.array([identity(query)]), np.array([identity(document)]), options.seed
                    )[0]
                )
                for document in kept
            }
            chosen = set(sorted(kept, key=draws.__getitem__)[: options.negatives])
            kept = [document for document in kept if document in chosen]
        found[query] = kept[: options.negatives]
    return found


def _allowed(score, positive, options):
    limits = [np.inf if options.max_score is None else options.max_score]
    if options.margin is not None:
        limits.append(positive - options.margin)
    if options.relative_margin is not None:
        limits.append(positive - options.relative_margin * abs(positive))
    if options.percent_of_positive:
        limits.append(positive - (1 - options.percent_of_positive / 100) * abs(positive))
    return score <= min(limits) and (options.min_score is None or score >= options.min_score)
