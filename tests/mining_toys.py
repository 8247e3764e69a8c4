"""Generated training pairs with many duplicates, a mining job on them, and a slow miner."""

import json
from functools import cache

import numpy as np

from trainer.batch import identity
from trainer.collectives import on_first_rank
from trainer.data.near_duplicates import normal_form
from trainer.data.rows import Row, Rows
from trainer.mining.choose import MiningRules, pair_draws
from trainer.mining.mine import mine_shards
from trainer.mining.spaces import Space
from trainer.mining.task import corpus_texts, read_task, write_task
from trainer.mining.work import NEGATIVES, WITHOUT_NEGATIVES, WorkFolder, job_lock
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
NO_LIMITS = {"percent_of_positive": 0.0}


def phrase(generator, words=3):
    return " ".join(generator.choice(WORDS, size=words))


def disguise(text, generator):
    """The text in another spelling with the same normal form."""
    return [text, text.upper(), f"{text}.", f"  {text.replace(' ', '  ')}!"][generator.integers(4)]


def generate_pairs(seed, pairs=30, further=15):
    """Training rows and further documents, both with near-duplicates of queries and positives."""
    generator = np.random.default_rng(seed)
    rows, documents = [], []
    for _ in range(pairs):
        if rows and generator.random() < 0.3:
            old = rows[generator.integers(len(rows))]
            query, positive = disguise(old.query, generator), phrase(generator)
        elif rows and generator.random() < 0.2:
            query, positive = (
                phrase(generator, 2),
                disguise(rows[generator.integers(len(rows))].positive, generator),
            )
        else:
            query, positive = phrase(generator, 2), phrase(generator)
        negatives = tuple(
            disguise(positive, generator) if generator.random() < 0.3 else phrase(generator)
            for _ in range(2)
        )
        rows.append(Row(query, positive, tuple(text for text in negatives if text != positive)))
    for _ in range(further):
        row = rows[generator.integers(len(rows))]
        documents.append(
            disguise([row.positive, row.query, phrase(generator)][generator.integers(3)], generator)
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
    """The lines, the queries without negatives and the report of a new or continued job."""
    job = WorkFolder(folder)
    stored_rows = Rows.of(rows)
    manifest = manifest or {"model": str(model)}

    def begin():
        with job_lock(job.path):
            job.begin(manifest, replace=False)
            own_texts = corpus_texts(["memory"], stored_rows, None, 0.0)
            write_task(job.work, stored_rows, [*further, *own_texts])

    on_first_rank(begin)
    task = read_task(job.work)
    vector_space = Space(load_once(kind, str(model)), task, job.work / "model", **space)
    scorer = teacher(task, job.work) if teacher else None
    report = mine_shards(job, manifest, task, vector_space, options, scorer)
    return lines_of(job.path / NEGATIVES), lines_of(job.path / WITHOUT_NEGATIVES), report


@cache
def load_once(kind, model):
    return kind(model)


def lines_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def form_identity(text):
    return identity(normal_form(text))


def forms_of_no_negatives(rows):
    """The form of each query to the forms that may be no negative for it."""
    forms = {}
    for row in rows:
        query = form_identity(row.query)
        forms.setdefault(query, {query}).add(form_identity(row.positive))
    return forms


def mine_by_hand(rows, further, score, options: MiningRules):
    """Query to its negatives, by the definition; `score` gives the score of two texts."""
    documents = list(
        dict.fromkeys(
            [
                *further,
                *(row.positive for row in rows),
                *(text for row in rows for text in row.negatives),
            ]
        )
    )
    forms, negatives_by_query = forms_of_no_negatives(rows), {}
    for query in dict.fromkeys(row.query for row in rows):
        lowest = min(score(query, row.positive) for row in rows if row.query == query)
        allowed_documents = [
            document
            for document in documents
            if form_identity(document) not in forms[form_identity(query)]
        ]
        candidates = sorted(allowed_documents, key=lambda document: -score(query, document))[
            options.skip_top : options.depth
        ]
        negatives = [
            document
            for document in candidates
            if _is_allowed(score(query, document), lowest, options)
        ]
        if options.pick == "random":
            draws = {
                document: int(
                    pair_draws(
                        np.array([identity(query)]), np.array([identity(document)]), options.seed
                    )[0]
                )
                for document in negatives
            }
            selected_texts = set(sorted(negatives, key=draws.__getitem__)[: options.negatives])
            negatives = [document for document in negatives if document in selected_texts]
        negatives_by_query[query] = negatives[: options.negatives]
    return negatives_by_query


def _is_allowed(score, positive, options):
    limits = [np.inf if options.max_score is None else options.max_score]
    if options.margin is not None:
        limits.append(positive - options.margin)
    if options.relative_margin is not None:
        limits.append(positive - options.relative_margin * abs(positive))
    if options.percent_of_positive:
        limits.append(positive - (1 - options.percent_of_positive / 100) * abs(positive))
    return score <= min(limits) and (options.min_score is None or score >= options.min_score)
