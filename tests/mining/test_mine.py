"""A whole job on a real encoder: what is written, against the definition; what never is; and that
it does not depend on how it was carried out.
"""

import json
import sys
from functools import cache

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from late_interaction_toys import make_marked_bert
from mining_toys import (
    NO_LIMITS,
    form_identity,
    forms_of_no_negatives,
    generate_pairs,
    load_once,
    mine_by_hand,
    run_job,
)
from ranks import on_ranks

from trainer.data.readers.read import read_rows
from trainer.data.rows import Row
from trainer.errors import BadData, BadModel
from trainer.mining.choose import MiningRules
from trainer.mining.spaces import Space
from trainer.mining.teacher import pair_scorer
from trainer.models.dense import read_encoder
from trainer.models.formats.folder import save_encoder
from trainer.models.late_interaction import (
    LateInteractionSettings,
    build_late_interaction_encoder,
    read_late_encoder,
)
from trainer.retrieval.encoding.encode import encode
from trainer.vectors.dense import DenseVectors
from trainer.vectors.vectors import nearest_documents


@pytest.fixture(scope="module")
def model(toy_folder):
    return toy_folder("bert")


@pytest.fixture(scope="module")
def late_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("late")
    make_marked_bert(folder / "bert")
    wishes = LateInteractionSettings(
        backbone=str(folder / "bert"),
        projection_dimensions=16,
        query_max_length_tokens=12,
        query_prompt="",
        document_prompt="",
        query_marker="",
        document_marker="",
        query_expansion=False,
        lora=None,
    )
    save_encoder(build_late_interaction_encoder(wishes).eval(), folder / "model")
    return folder / "model"


def scorer(model):
    """The model's score of two texts, each encoded with all others of the toy data."""
    encoder, kept = load_once(read_encoder, str(model)), {}

    def score(query, document):
        for text, role in ((query, "query"), (document, "document")):
            if (text, role) not in kept:
                kept[text, role] = encoder.for_search(encode(encoder, [text], role))[0]
        return float(np.float32(kept[query, "query"] @ kept[document, "document"]))

    return score


ROWS, FURTHER = generate_pairs(seed=4, pairs=40)
ALL_LIMITS = MiningRules(
    negatives=9,
    depth=80,
    skip_top=1,
    margin=0.002,
    relative_margin=0.0021,
    percent_of_positive=99.7,
    min_score=0.95,
    max_score=0.975,
)


@pytest.mark.parametrize(
    "options",
    [
        MiningRules(negatives=3, depth=60, percent_of_positive=98.9),
        MiningRules(negatives=5, depth=9, skip_top=2, **NO_LIMITS),
        ALL_LIMITS,
        MiningRules(negatives=2, pick="random", seed=3, **NO_LIMITS),
    ],
    ids=["percent", "ranks", "every limit", "random"],
)
def test_mined_negatives_equal_the_definition(model, tmp_path, options):
    lines, without, report = run_job(tmp_path / "job", ROWS, model, options, FURTHER)
    wanted = mine_by_hand(ROWS, FURTHER, scorer(model), options)
    found = {line["query"]: line["negatives"] for line in lines} | {
        line["query"]: [] for line in without
    }
    assert found == wanted
    assert sum(map(len, found.values())) > 20
    assert options.percent_of_positive == 0 or any(
        len(kept) < options.negatives for kept in wanted.values()
    )  # the limits were met
    assert {(line["query"], line["positive"]) for line in lines} == {
        (row.query, row.positive) for row in ROWS if wanted[row.query]
    }
    score = scorer(model)
    for line in lines:
        texts = [line["positive"], *line["negatives"]]
        np.testing.assert_allclose(
            line["scores"], [score(line["query"], text) for text in texts], atol=2e-6
        )
    assert report["queries"] == len(wanted)
    assert (
        report["queries_without_negatives"]
        == len(without)
        == sum(not kept for kept in wanted.values())
    )


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    seed=st.integers(0, 10**6), pairs=st.integers(3, 40), pick=st.sampled_from(["top", "random"])
)
def test_known_positives_and_near_duplicates_are_never_negatives(
    model, tmp_path_factory, seed, pairs, pick
):
    rows, further = generate_pairs(seed, pairs)
    options = MiningRules(
        negatives=9, bm25_negatives=9, random_negatives=9, depth=200, pick=pick, **NO_LIMITS
    )
    lines, _, report = run_job(
        tmp_path_factory.mktemp("job") / "job", rows, model, options, further
    )
    known, seen = forms_of_no_negatives(rows), 0
    for line in lines:
        assert len(line["scores"]) == 1 + len(line["negatives"]) > 1
        assert len(set(line["negatives"])) == len(line["negatives"])
        assert (
            not {form_identity(text) for text in line["negatives"]}
            & known[form_identity(line["query"])]
        )
        seen += len(line["negatives"])
    assert seen >= 3 * len(lines) > 0
    assert (
        report["removed"]["known_positive_or_twin"] >= report["queries"]
    )  # every query's own positive was met, so there was something to leave out


def test_every_source_gives_its_number_of_negatives(model, tmp_path):
    options = MiningRules(negatives=0, bm25_negatives=2, random_negatives=1, depth=10, **NO_LIMITS)
    lines, _, report = run_job(tmp_path / "job", ROWS, model, options, FURTHER)
    assert report["negatives"]["model"] == 0
    assert report["negatives"]["bm25"] > report["negatives"]["random"] > 0
    for line in lines:
        shared = [
            set(line["query"].lower().split()) & set(form_words(text))
            for text in line["negatives"][:1]
        ]
        assert report["negatives"]["bm25"] == 0 or any(shared) or len(line["negatives"]) <= 1


def form_words(text):
    return text.lower().replace(".", "").replace("!", "").split()


def test_random_negatives_depend_only_on_the_query(model, tmp_path):
    options = MiningRules(negatives=3, pick="random", seed=1, **NO_LIMITS)
    one = run_job(tmp_path / "one", ROWS, model, options, FURTHER)[0]
    turned = run_job(tmp_path / "two", ROWS[::-1], model, options, FURTHER)[0]
    other = run_job(
        tmp_path / "other",
        ROWS,
        model,
        MiningRules(negatives=3, pick="random", seed=2, **NO_LIMITS),
        FURTHER,
    )[0]
    as_sets = [
        {(line["query"], line["positive"]): set(line["negatives"]) for line in lines}
        for lines in (one, turned, other)
    ]
    assert as_sets[0] == as_sets[1] != as_sets[2]


def test_shards_and_micro_batches_change_nothing(model, tmp_path, monkeypatch):
    options = MiningRules(
        negatives=3, bm25_negatives=1, random_negatives=1, pick="random", percent_of_positive=99.5
    )
    whole = run_job(tmp_path / "whole", ROWS, model, options, FURTHER)
    monkeypatch.setattr("trainer.mining.spaces.QUERIES_PER_SHARD", 7)
    for module in ("shard", "mine", "teacher"):
        monkeypatch.setattr(f"trainer.mining.{module}.QUERIES_PER_SHARD", 7)
    monkeypatch.setattr(DenseVectors, "TEXTS_PER_BLOCK", 11)
    parted = run_job(tmp_path / "parted", ROWS, model, options, FURTHER, micro_batch_tokens=32)
    for one, other in zip(whole[0], parted[0], strict=True):
        np.testing.assert_allclose(one.pop("scores"), other.pop("scores"), atol=2e-6)
        assert one == other
    assert whole[1] == parted[1]
    assert {name: whole[2][name] for name in ("removed", "candidates", "suspected")} == {
        name: parted[2][name] for name in ("removed", "candidates", "suspected")
    }


def job_bytes(folder, model, kind, teacher_model):
    """What every rank runs."""
    options = MiningRules(
        negatives=2, bm25_negatives=1, random_negatives=1, depth=15, percent_of_positive=99.8
    )
    teacher = (
        (lambda task, work: Space(read_encoder(str(teacher_model)), task, work / "teacher"))
        if teacher_model
        else None
    )
    for module in ("spaces", "shard", "mine", "teacher"):
        sys.modules[f"trainer.mining.{module}"].QUERIES_PER_SHARD = 6
    run_job(folder, ROWS, model, options, FURTHER, teacher, kind=kind)
    return [
        (folder / name).read_bytes()
        for name in ("train.jsonl", "without-negatives.jsonl", "report.json")
    ]


@pytest.mark.parametrize(
    "family", ["dense", "late interaction", "late interaction with a dense teacher"]
)
def test_two_ranks_write_the_same_bytes_as_one(model, late_model, tmp_path, family):
    which, kind = (model, read_encoder) if family == "dense" else (late_model, read_late_encoder)
    teacher = model if family.endswith("teacher") else None
    alone = on_ranks(1, job_bytes, tmp_path / "one", which, kind, teacher)[0]
    both = on_ranks(2, job_bytes, tmp_path / "two", which, kind, teacher)
    assert both == [alone, alone]
    assert len(alone[0].splitlines()) > 20


def test_late_interaction_model_mines_by_maxsim(late_model, tmp_path):
    lines, without, _ = run_job(
        tmp_path / "job",
        ROWS,
        late_model,
        MiningRules(negatives=3, **NO_LIMITS),
        FURTHER,
        kind=read_late_encoder,
    )
    encoder = load_once(read_late_encoder, str(late_model))

    @cache
    def score(query, document):
        asked, found = (
            encode(encoder, [text], role)
            for text, role in ((query, "query"), (document, "document"))
        )
        return float(nearest_documents(asked, found, 1)[0][0, 0])

    assert not without
    known = forms_of_no_negatives(ROWS)
    documents = {text for row in ROWS for text in (row.positive, *row.negatives)} | set(FURTHER)
    for line in lines[:4]:
        free = {
            text: score(line["query"], text)
            for text in documents
            if form_identity(text) not in known[form_identity(line["query"])]
        }
        np.testing.assert_allclose(
            line["scores"][1:], sorted(free.values(), reverse=True)[:3], atol=1e-4
        )
        np.testing.assert_allclose(
            line["scores"][1:], [free[text] for text in line["negatives"]], atol=1e-4
        )
        assert line["scores"][0] == pytest.approx(score(line["query"], line["positive"]), abs=1e-4)


# ---------------------------------------------------------------- teachers


def test_scores_of_the_teacher_decide(model, toy_folder, tmp_path):
    other = toy_folder("mpnet")
    options = MiningRules(negatives=4, depth=12, percent_of_positive=99.0)
    lines, without, _ = run_job(
        tmp_path / "job",
        ROWS,
        model,
        options,
        FURTHER,
        lambda task, work: Space(load_once(read_encoder, str(other)), task, work / "teacher"),
    )
    taught, own = scorer(other), scorer(model)
    for line in lines:
        texts = [line["positive"], *line["negatives"]]
        np.testing.assert_allclose(
            line["scores"], [taught(line["query"], text) for text in texts], atol=2e-6
        )
        lowest = min(taught(row.query, row.positive) for row in ROWS if row.query == line["query"])
        assert max(line["scores"][1:]) <= lowest - 0.01 * abs(lowest) + 2e-6
    assert any(
        own(line["query"], text) > own(line["query"], line["positive"])
        for line in lines
        for text in line["negatives"]
    )
    assert lines
    assert without


def test_teacher_may_be_any_function_of_texts(model, tmp_path):
    def by_length(queries, documents):
        return [[float(len(text)) for text in texts] for texts in documents]

    lines, _, _ = run_job(
        tmp_path / "job",
        ROWS,
        model,
        MiningRules(negatives=2, **NO_LIMITS),
        FURTHER,
        lambda task, work: pair_scorer(by_length, task),
    )
    for line in lines:
        assert line["scores"] == [len(text) for text in (line["positive"], *line["negatives"])]


def test_scores_that_are_not_finite_are_refused(model, tmp_path):
    def broken(queries, documents):
        return [[np.nan if "machine" in text else 1.0 for text in texts] for texts in documents]

    with pytest.raises(
        BadModel,
        match=(
            r"the teacher gives \d+ of \d+ pairs a score that is not finite, first for the"
            r" query '"
        ),
    ):
        run_job(
            tmp_path / "job",
            ROWS,
            model,
            MiningRules(negatives=2),
            FURTHER,
            lambda task, work: pair_scorer(broken, task),
        )


# ---------------------------------------------------------------- what is left


def test_queries_without_negatives_are_named_with_the_reason(model, tmp_path):
    lines, without, report = run_job(
        tmp_path / "job",
        ROWS,
        model,
        MiningRules(negatives=2, depth=20, percent_of_positive=99.5),
        FURTHER,
    )
    assert lines
    assert without
    assert not {line["query"] for line in lines} & {line["query"] for line in without}
    for line in without:
        assert line["positives"]
        assert "by percent_of_positive" in line["reason"]
    assert report["removed"]["percent_of_positive"] > 0


def test_mining_without_any_negative_is_an_error_that_names_queries(model, tmp_path):
    with pytest.raises(
        BadData,
        match=(
            r"no negative is left for any of the \d+ queries.*\n  '.+': 5 candidates in the range"
            r" of ranks, removed: .*5 by min_score"
        ),
    ):
        run_job(
            tmp_path / "job", ROWS, model, MiningRules(negatives=2, depth=5, min_score=2.0), FURTHER
        )
    assert not (tmp_path / "job" / "report.json").exists()
    assert (tmp_path / "job" / "without-negatives.jsonl").exists()


def test_suspected_false_negatives_are_counted_and_shown(model, tmp_path):
    options = MiningRules(negatives=2, depth=30, **NO_LIMITS)
    _, _, report = run_job(tmp_path / "job", ROWS, model, options, FURTHER)
    score, known = scorer(model), forms_of_no_negatives(ROWS)
    documents = list(
        dict.fromkeys(
            [
                *FURTHER,
                *(row.positive for row in ROWS),
                *(text for row in ROWS for text in row.negatives),
            ]
        )
    )
    suspected = []
    for query in dict.fromkeys(row.query for row in ROWS):
        lowest = min(score(query, row.positive) for row in ROWS if row.query == query)
        ranked = sorted(
            (
                score(query, text)
                for text in documents
                if form_identity(text) not in known[form_identity(query)]
            ),
            reverse=True,
        )[:30]
        suspected += [found - lowest for found in ranked if found > lowest]
    assert report["suspected"]["candidates"] == len(suspected) > 0
    worst = report["worst"][0]
    assert worst["candidate_score"] - worst["positive_score"] == pytest.approx(
        max(suspected), abs=4e-6
    )
    assert score(worst["query"], worst["candidate"]) == pytest.approx(
        worst["candidate_score"], abs=2e-6
    )


def test_output_is_read_as_training_rows_with_scores(model, tmp_path):
    lines, _, _ = run_job(tmp_path / "job", ROWS, model, MiningRules(negatives=3), FURTHER)
    rows = read_rows(str(tmp_path / "job" / "train.jsonl"))
    assert len(rows) == len(lines)
    for row, line in zip(rows, lines, strict=True):
        assert (row.query, row.positive, list(row.negatives), list(row.labels)) == (
            *list(line.values())[:3],
            line["scores"],
        )


def test_low_scored_pairs_are_no_positives(model, tmp_path):
    rows = [
        Row("delete disk", "disk delete", labels=(0.9,)),
        Row("delete disk", "create account", labels=(0.1,)),
        Row("show", "list", labels=(1.0,)),
    ]
    lines, _, _ = run_job(tmp_path / "job", rows, model, MiningRules(negatives=3, **NO_LIMITS))
    assert [line["positive"] for line in lines] == ["disk delete", "list"]
    assert "create account" in lines[0]["negatives"]


def test_report_is_one_json_object_with_its_settings(model, tmp_path):
    run_job(
        tmp_path / "job",
        ROWS,
        model,
        MiningRules(negatives=2),
        FURTHER,
        manifest={"model": {"source": "m", "sha256": "ab"}},
    )
    report = json.loads((tmp_path / "job" / "report.json").read_text())
    assert report["made_with"] == {"model": {"source": "m", "sha256": "ab"}}
    assert not (tmp_path / "job" / "work").exists()
