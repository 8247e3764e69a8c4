"""A router: its features, what it learns, its file, and the figures that `nearfar route` prints."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from forked import nearfar
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from trainer.data.retrieval_set import RetrievalSet
from trainer.errors import BadData, BadFolder, BadRecipe
from trainer.retrieval.bm25 import Bm25
from trainer.routing import fit
from trainer.routing.answers import RouteAnswers
from trainer.routing.features import FEATURES, WordCounts, query_features
from trainer.routing.measure import ALL_NAME, ORACLE_NAME, ROUTER_NAME, evaluate_router
from trainer.routing.router import ALL_ROUTES, Router, choose_routes, terms
from trainer.routing.table import curve_lines, router_lines

COUNT = 400
RARE, COMMON = [f"zq{number}" for number in range(200)], ["how", "do", "list", "all", "disks"]
DOCUMENTS = tuple(f"how do list all disks {word}" for word in RARE)


@pytest.fixture(scope="module")
def words():
    return WordCounts.of(DOCUMENTS)


def judged_answers(qualities, milliseconds=(1.0, 9.0), seed=0):
    """Answers of two routes: questions of common words, and keywords, half of each."""
    generator = np.random.default_rng(seed)
    queries = [
        " ".join([*generator.permutation(COMMON), "?"])
        if number % 2
        else " ".join(generator.choice(RARE, 2))
        for number in range(COUNT)
    ]
    ids = tuple(f"q{number}" for number in range(COUNT))
    judged_set = RetrievalSet("toy dev", ids, tuple(queries), ("d",), ("text",), {})
    noise = generator.normal(0, 0.05, (COUNT, 3))
    is_question = np.arange(COUNT) % 2
    means = np.array([qualities(question) for question in is_question])
    documents = tuple(f"d{number // 4}" for number in range(COUNT))
    return RouteAnswers(
        ("bm25", "model"), judged_set, tuple(queries), means + noise, milliseconds, documents
    )


def good_at_different_queries(is_question):
    """BM25 answers keywords, the model answers questions, and both together lie between."""
    return (0.3, 0.8, 0.6) if is_question else (0.8, 0.3, 0.6)


def equally_good(is_question):
    return (0.5, 0.5, 0.5)


@pytest.fixture(scope="module")
def router(words):
    return fit.fit_router(judged_answers(good_at_different_queries), words)


def test_features_count_words_in_documents(words):
    features = query_features(["How do ZQ7 unheard?", "", "list-all 12"], words)
    named = [dict(zip(FEATURES, row, strict=True)) for row in features]
    assert named[0]["rarity of the rarest word"] == 1.0
    assert named[0]["rarity of the most common word"] == 0.0
    assert named[0]["mean rarity"] == 0.5, "two words are in all documents, one in one, one in none"
    assert named[0]["share of unknown words"] == 0.25
    assert named[0]["question mark"] == 1.0
    assert named[0]["share of capital letters"] == pytest.approx(3 / 19)
    assert named[1]["words"] == 0.0
    assert named[1]["mean rarity"] == 1.0
    assert named[2]["share of symbols"] == pytest.approx(1 / 11)
    assert named[2]["share of digits"] == pytest.approx(2 / 11)


@pytest.mark.filterwarnings("error")
def test_corpus_of_one_document_and_of_none_have_features():
    for texts in (["one"], []):
        assert np.isfinite(query_features(["one two", ""], WordCounts.of(texts))).all()


def test_terms_are_those_of_scikit_learn():
    features = np.random.default_rng(0).normal(size=(5, len(FEATURES)))
    polynomial = PolynomialFeatures(2, include_bias=False)
    assert np.array_equal(terms(features), polynomial.fit_transform(features))


def test_predictions_are_those_of_scikit_learn_after_calibration(words, router):
    answers = judged_answers(good_at_different_queries)
    gains = answers.qualities[:, :-1] - answers.qualities[:, -1:]
    model = make_pipeline(
        StandardScaler(), PolynomialFeatures(2, include_bias=False), RidgeCV(fit._STRENGTHS)
    )
    features = query_features(answers.queries, words)
    predictions = model.fit(features, gains).predict(features)
    deviations = predictions - gains.mean(0)
    scales = (router.gains(answers.queries) - gains.mean(0)) / deviations
    assert np.allclose(scales, scales[0], rtol=1e-6), "one scale per route"
    assert (scales > 0.9).all()
    assert (scales <= 1.0 + 1e-9).all()


def test_router_asks_the_route_that_answers_the_kind_of_query(router):
    questions, keywords = "how do all disks list ?", "zq7 zq9"
    assert router.choose([questions, keywords]).tolist() == [1, 0]
    cheapest = router.choose([questions, keywords], limit=0.1)
    assert cheapest.tolist() == [0, 0], "the model costs nine tenths"
    with pytest.raises(BadRecipe, match=r"cheapest of these routes costs 0.1 .* give a limit"):
        router.choose([questions], limit=0.05)


def test_limit_that_an_error_names_is_enough(words):
    answers = judged_answers(good_at_different_queries, milliseconds=(0.094, 467.0))
    router = fit.fit_router(answers, words)
    with pytest.raises(BadRecipe, match="too little") as error:
        router.choose(["zq7"], limit=0.0)
    (least,) = re.findall(r"costs (\S+) of asking", str(error.value))
    assert least == "0.0003"
    assert router.choose(["zq7"], limit=float(least)).tolist() == [0]


def test_router_is_no_worse_than_a_route_alone_on_the_queries_it_learned_from(words):
    """Where all together are best, prices lead from all of them to the cheapest."""
    answers = judged_answers(lambda _: (0.5, 0.6, 0.8), milliseconds=(2.0, 4.0))
    router = fit.fit_router(answers, words)
    assert router.settings.best_rule(0.7).route == 1
    assert router.choose(["zq7", "how do ?"], limit=0.7).tolist() == [1, 1]
    lines = list(curve_lines(router))
    assert lines[-1].endswith(" at a cost of 1.00")
    assert lines[-2].endswith("at a cost of 0.67, asks model alone")


@pytest.mark.parametrize("query", ["zq7 nowhere", "Zq7", "unheard words", "how", "the", "?!", "z"])
def test_query_has_a_word_of_the_documents_where_bm25_finds_one(query):
    documents = ["how to list the disk zq7", "the how"]
    ((rows, _),) = Bm25(documents).best([query], 1)
    assert WordCounts.of(documents).has_word_of(query) == bool(rows.size)


def test_bm25_is_not_asked_alone_for_words_that_no_document_has(router, words):
    assert router.choose(["zq7", "xq7", "zq7 xq7"], limit=0.1).tolist() == [0, ALL_ROUTES, 0]
    always_bm25 = fit.fit_router(judged_answers(lambda _: (0.8, 0.3, 0.5)), words)
    choices = always_bm25.choose(["zq7", "the of"]).tolist()
    assert choices == [0, ALL_ROUTES]


def test_unsure_router_asks_all():
    gains = np.array([[-0.01, -0.02], [0.0, 0.0]])
    assert choose_routes(gains, np.array([0.2, 0.8]), 0.0).tolist() == [ALL_ROUTES, ALL_ROUTES]


def test_evaluation_compares_with_all_and_with_the_best_route(router):
    answers = judged_answers(good_at_different_queries, seed=1)
    evaluation = evaluate_router(router, answers, limit=0.6)
    assert evaluation.shares["bm25"] == pytest.approx(0.5, abs=0.02)
    row = evaluation.row(ROUTER_NAME)
    assert row.quality.mean == pytest.approx(0.8, abs=0.02)
    assert row.cost == pytest.approx(0.5 + evaluation.choice_milliseconds / 10, abs=0.02)
    assert evaluation.row(ALL_NAME).cost == 1.0
    assert evaluation.row(ORACLE_NAME).quality.mean >= row.quality.mean
    assert evaluation.calibration_error < 0.03
    assert [test.baseline for test in evaluation.comparisons] == [ALL_NAME, "bm25"]
    assert all(test.is_proven for test in evaluation.comparisons)
    assert "It is better than bm25 alone, the best route within the limit" in str(evaluation)
    shuffled = np.random.default_rng(0).permutation(COUNT)
    texts = tuple(answers.queries[place] for place in shuffled)
    wrong = replace(answers, queries=texts)
    assert evaluate_router(router, wrong, limit=0.6).calibration_error > 0.1


def test_verdict_says_when_routing_gains_nothing(words):
    router = fit.fit_router(judged_answers(equally_good), words)
    evaluation = evaluate_router(router, judged_answers(equally_good, seed=1), limit=0.5)
    assert "Routing gains nothing that is proven over bm25 alone" in str(evaluation)
    assert evaluation.shares["bm25"] > 0.9, "the cheapest of equal routes"


def test_verdict_does_not_advise_a_route_that_costs_more_for_no_gain(words):
    """What was best on the queries it learned from may be worse on others."""
    router = fit.fit_router(judged_answers(lambda _: (0.6, 0.8, 0.7)), words)
    other_answers = judged_answers(lambda _: (0.8, 0.6, 0.7), seed=1)
    verdict = str(evaluate_router(router, other_answers, limit=0.95))
    assert "over model alone" in verdict
    assert "the best route within the limit on the queries that the router learned from" in verdict
    assert "But bm25 alone costs less, and is no worse on these queries: 0.80" in verdict
    assert "Use that one" not in verdict
    same_answers = judged_answers(lambda _: (0.6, 0.8, 0.7), seed=1)
    assert str(evaluate_router(router, same_answers, limit=0.95)).endswith("Use that one.")


def test_router_is_compared_with_a_single_route_where_all_are_within_the_limit(words):
    answers = judged_answers(lambda _: (0.5, 0.6, 0.8))
    evaluation = evaluate_router(fit.fit_router(answers, words), answers, limit=1.0)
    assert [test.baseline for test in evaluation.comparisons] == [ALL_NAME, "model"]


def test_set_that_the_router_may_have_learned_from_is_told(router):
    answers = judged_answers(good_at_different_queries)
    set_of_pairs = replace(answers.judged_set, limitation="few documents")
    evaluation = evaluate_router(router, replace(answers, judged_set=set_of_pairs), limit=0.6)
    note = "few documents; the router learned from a set of this name; on the same queries"
    assert note in "\n".join(router_lines(evaluation))
    assert note in repr(evaluation)
    other_set = replace(answers.judged_set, name="toy test")
    assert evaluate_router(router, replace(answers, judged_set=other_set), 0.6).limitation == ""


@pytest.mark.filterwarnings("error")
def test_two_queries_have_a_calibration_error(router):
    answers = judged_answers(good_at_different_queries)
    two = replace(
        answers,
        queries=answers.queries[:2],
        qualities=answers.qualities[:2],
        documents=answers.documents[:2],
    )
    expected = np.abs(router.gains(two.queries) - (two.qualities[:, :2] - two.qualities[:, 2:]))
    error = evaluate_router(router, two, limit=0.6).calibration_error
    assert error == pytest.approx(expected.mean()), "each prediction is a group"


def test_answers_of_other_routes_are_refused(router):
    answers = judged_answers(equally_good)
    others = replace(answers, routes=("bm25", "other"))
    with pytest.raises(BadRecipe, match="between bm25, model, and the answers are of bm25, other"):
        evaluate_router(router, others, limit=0.5)


def test_few_queries_are_refused(words):
    answers = judged_answers(equally_good)
    few = replace(answers, documents=answers.documents[:20])
    with pytest.raises(BadData, match="has 20 judged queries, and a router needs at least 50"):
        fit.fit_router(few, words)
    few_documents = replace(answers, documents=("d0", "d1") * (COUNT // 2))
    with pytest.raises(BadData, match="the 400 queries of toy dev have 2 different relevant docum"):
        fit.fit_router(few_documents, words)


def test_queries_of_one_document_are_in_one_fold(words):
    """What holds for one document alone is luck: other documents have other luck."""
    generator = np.random.default_rng(0)
    groups = np.arange(COUNT) % 20
    texts = [
        " ".join("x" * length for length in generator.integers(1, 12, 1 + group % 7))
        for group in range(20)
    ]
    lucky = replace(
        judged_answers(equally_good),
        queries=tuple(texts[group] for group in groups),
        qualities=0.5 + generator.normal(0, 0.3, (20, 3))[groups],
        documents=tuple(f"d{group}" for group in groups),
    )
    mixed = replace(lucky, documents=tuple(map(str, range(COUNT))))
    promised_gains = [
        max(point.quality for point in fit.fit_router(answers, words).settings.curve)
        - answers.qualities.mean(0).max()
        for answers in (lucky, mixed)
    ]
    assert promised_gains[0] < 0.02
    assert promised_gains[1] > 0.05


def test_stored_router_chooses_the_same(router, tmp_path):
    router.save(tmp_path / "router")
    stored = Router.open(tmp_path / "router")
    queries = ["how do all disks list ?", "zq7 zq9", "", "unheard"]
    assert np.array_equal(stored.gains(queries), router.gains(queries))
    assert stored.settings == router.settings
    with pytest.raises(BadFolder, match="holds a router already; give --replace"):
        router.save(tmp_path / "router")
    router.save(tmp_path / "router", replace=True)
    (tmp_path / "router" / "mine.txt").write_text("mine")
    with pytest.raises(BadFolder, match="something other than a router"):
        router.save(tmp_path / "router", replace=True)


def test_commands_from_fit_to_ask(data, tmp_path, toy_folder):
    routes = ["bm25", toy_folder("bert")]
    made = nearfar("route", "fit", *routes, "--data", data, "-o", "router", folder=tmp_path)
    assert made.returncode == 0, made.stderr
    assert "learned from 80 queries" in made.stdout
    assert "bm25: nDCG@10 0." in made.stdout
    measured = nearfar(
        "route", "evaluate", "router", "--data", data, "--out", "e.json", folder=tmp_path
    )
    assert measured.returncode == 0, measured.stderr
    content = json.loads((tmp_path / "e.json").read_text())
    assert content["queries"] == 80
    assert content["verdict"].split()[-1] in " ".join(measured.stdout.split())
    assert {row["name"] for row in content["rows"]} >= {"bm25", ROUTER_NAME, ALL_NAME, ORACLE_NAME}
    asked = nearfar("route", "ask", "router", "zq3", folder=tmp_path)
    assert asked.stdout == "bm25\tzq3\n"


@pytest.mark.parametrize(
    ("routes", "problem"),
    [
        (["bm25"], "two or more routes"),
        (["bm25", "hybrid:a+bm25"], "hybrid:a.bm25 cannot be a route"),
        (["bm25", "run:x.trec"], "run:x.trec cannot be a route"),
        (["bm25", "bm25"], "named twice"),
        (["bm25", "nosuchmodel"], "model nosuchmodel: no folder nosuchmodel"),
        (["bm25", "index:nosuchindex"], "nosuchindex does not exist"),
    ],
)
def test_wrong_routes_are_refused_before_work(data, tmp_path, routes, problem):
    made = nearfar("route", "fit", *routes, "--data", data, "-o", "router", folder=tmp_path)
    assert made.returncode == 2
    assert problem.replace(".", "+") in made.stderr or problem in made.stderr
    assert "asking" not in made.stderr
    assert not (tmp_path / "router").exists()


def test_few_queries_are_refused_before_work(data, tmp_path, toy_folder):
    made = nearfar(
        *("route", "fit", "bm25", toy_folder("bert"), "--data", data, "-o", "router"),
        *("--max-queries", 30),
        folder=tmp_path,
    )
    assert made.returncode == 2
    assert "has 30 judged queries, and a router needs at least 50" in made.stderr
    assert "asking" not in made.stderr
