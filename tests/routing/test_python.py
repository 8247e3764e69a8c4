"""Routers with nothing but `import nearfar`: what is returned is what the commands print."""

import json

import pytest
from forked import nearfar as command

import nearfar

QUESTIONS = ["database machine", "which vault?", "query the disk", "what machine?"]


def answers(result):
    return [(hit.document.id, round(hit.score, 4)) for hit in result]


def test_router_is_learned_measured_and_asked(data, tmp_path, toy_folder):
    routes, place = ["bm25", toy_folder("bert")], tmp_path / "router"
    router = nearfar.route_fit(routes, data, place, max_queries=60)
    assert repr(router).startswith(f"Router(bm25, {routes[1]}; learned from 60 queries of ")
    with pytest.raises(nearfar.NearfarError, match="holds a router already"):
        nearfar.route_fit(routes, data, place)

    queries = ["zq3", "disks of which?"]
    names = nearfar.route_ask(place, queries)
    assert nearfar.route_ask(router, queries) == names
    assert nearfar.route_ask(place, queries[1]) == names[1]
    printed = command("route", "ask", place, *queries, folder=tmp_path).stdout
    assert printed.splitlines() == [
        f"{name}\t{query}" for name, query in zip(names, queries, strict=True)
    ]

    evaluation = nearfar.route_evaluate(place, data, cost=1.0)
    measured = command(
        *("route", "evaluate", place, "--data", data, "--cost", 1, "--out", "e.json"),
        folder=tmp_path,
    )
    assert measured.returncode == 0, measured.stderr
    rows = json.loads((tmp_path / "e.json").read_text())["rows"]
    assert {row.name: row.quality.mean for row in evaluation.rows} == pytest.approx(
        {row["name"]: row["quality"]["mean"] for row in rows}
    )
    assert repr(evaluation).splitlines()[-1] == str(evaluation)
    with pytest.raises(nearfar.NearfarError, match="a query is blank"):
        nearfar.route_ask(router, ["zq3", " "])
    with pytest.raises(nearfar.NearfarError, match="a cost of 0 is too little"):
        nearfar.route_evaluate(router, data, cost=0.0)
    for cost in (-0.1, 7.0, float("nan")):
        with pytest.raises(nearfar.NearfarError, match="no share of the cost of all routes"):
            nearfar.route_ask(router, "zq3", cost=cost)
    with pytest.raises(nearfar.NearfarError, match="two or more routes"):
        nearfar.route_fit("bm25", data, tmp_path / "one")


def test_question_is_searched_by_its_own_route(folder, write_router, monkeypatch):
    monkeypatch.chdir(folder)
    write_router(folder, [0.0, 0.1, 0.0], gains_of_questions=[0.0, 0.0, 0.1])
    views = ["dense", "sparse", "dense", "sparse"]
    assert nearfar.route_ask("router", QUESTIONS) == [f"index:idx/views/{view}" for view in views]
    results = nearfar.search("idx", QUESTIONS, k=4, router="router")
    for question, view, result in zip(QUESTIONS, views, results, strict=True):
        assert result.question == question
        assert answers(result) == answers(nearfar.search("idx", question, k=4, view=view))
    dense, sparse = (nearfar.search("idx", QUESTIONS[0], k=4, view=view) for view in views[:2])
    assert answers(dense) != answers(sparse), "else any route would pass"
    alone = nearfar.search("idx", QUESTIONS[1], k=4, router="router")
    assert answers(alone) == answers(results[1])


def test_router_that_was_written_again_chooses_anew(folder, write_router, monkeypatch):
    monkeypatch.chdir(folder)
    for gains, view in (([0.0, 0.1, 0.0], "dense"), ([0.0, 0.0, 0.1], "sparse")):
        write_router(folder, gains)
        routed = nearfar.search("idx", QUESTIONS[0], k=4, router="router")
        chosen = nearfar.search("idx", QUESTIONS[0], k=4, view=view)
        assert answers(routed) == answers(chosen)


def test_other_choices_of_views_are_refused(folder, write_router, monkeypatch):
    monkeypatch.chdir(folder)
    write_router(folder, [0.1, 0.0, 0.0])
    for choice in ({"view": "dense"}, {"hybrid": True}, {"model": "bert"}):
        with pytest.raises(nearfar.NearfarError, match="leave view, hybrid, weights and model out"):
            nearfar.search("idx", QUESTIONS[0], router="router", **choice)
