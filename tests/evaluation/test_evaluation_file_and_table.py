import dataclasses
import io
import json

import numpy as np
import pytest
from rich.console import Console

from trainer.batch import identity
from trainer.data.retrieval_set import RetrievalSet
from trainer.errors import BadData
from trainer.evaluation.evaluate import evaluate, evaluate_bm25, evaluate_run
from trainer.evaluation.evaluation_file import read_evaluation, write_evaluation
from trainer.evaluation.metrics import METRICS
from trainer.evaluation.results import SystemResult, compare
from trainer.evaluation.table import comparison_lines, comparison_table, search_examples
from trainer.models.dense import read_encoder
from trainer.report.read import read_run

WORDS = ("disk", "storage", "account", "query", "database", "machine", "region")
DOCUMENTS = tuple(f"{first} {second}" for first in WORDS for second in WORDS)
SET = RetrievalSet(
    name="toy test",
    query_ids=tuple(f"q{number}" for number in range(20)),
    queries=tuple(f"the {DOCUMENTS[2 * number]}" for number in range(20)),
    document_ids=tuple(f"d{row}" for row in range(len(DOCUMENTS))),
    documents=DOCUMENTS,
    qrels={f"q{number}": {f"d{2 * number}": 1} for number in range(20)},
)


def result(name, *ranks, queries=SET):
    """A system that finds the right document of query i at ranks[i % len(ranks)]."""
    run = {}
    for number, query in enumerate(queries.query_ids):
        others = [
            document for document in queries.document_ids if document not in queries.qrels[query]
        ]
        others.insert(ranks[number % len(ranks)] - 1, next(iter(queries.qrels[query])))
        run[query] = {document: 1 - rank / 1000 for rank, document in enumerate(others)}
    return evaluate_run(run, queries, name)


def shown(*things, width=100):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    for thing in things:
        console.print(thing)
    return console.file.getvalue()


@pytest.fixture
def evaluation():
    return compare(
        SET, "test", [evaluate_bm25(SET), result("base", 1, 2, 5), result("fine-tuned", 1, 1, 2)]
    )


def test_encoder_that_knows_the_answers_is_perfect(toy_folder):
    """Queries that are the documents' own texts are found first by any encoder."""
    same = RetrievalSet(
        "same",
        SET.query_ids,
        tuple(DOCUMENTS[2 * number] for number in range(20)),
        SET.document_ids,
        DOCUMENTS,
        SET.qrels,
    )
    found = evaluate(read_encoder(str(toy_folder("bert"))), same, name="toy")
    assert tuple(found.metrics) == METRICS
    assert all(found.mean(metric) == 1 for metric in METRICS)
    assert [len(hits) for hits in found.top.values()] == [10] * 20
    assert [hits[0][0] for hits in found.top.values()] == [f"d{2 * number}" for number in range(20)]


def test_metrics_count_only_the_first_k_documents():
    run = {"q0": {f"d{row}": -float(row) for row in range(40, 0, -1)} | {"d0": -20.5}}
    one = RetrievalSet("one", ("q0",), ("x",), SET.document_ids, DOCUMENTS, {"q0": {"d0": 1}})
    assert evaluate_run(run, one, "s", k=21).metrics["map"][0] == pytest.approx(1 / 21)
    assert evaluate_run(run, one, "s", k=20).metrics["map"][0] == 0


def test_query_is_no_result_of_itself_unless_it_is_judged():
    queries = RetrievalSet(
        "ids",
        ("a", "b"),
        ("x", "y"),
        ("a", "b", "c"),
        ("x", "y", "z"),
        {"a": {"c": 1}, "b": {"b": 1}},
    )
    run = {query: {"a": 3.0, "b": 2.0, "c": 1.0} for query in ("a", "b")}
    found = evaluate_run(run, queries, "s")
    assert [document for document, _ in found.top["a"]] == ["b", "c"]
    assert [document for document, _ in found.top["b"]] == ["a", "b", "c"]


def test_set_without_judgements_is_refused():
    with pytest.raises(BadData, match="none of its 20 queries"):
        evaluate_run(
            {},
            RetrievalSet("bare", SET.query_ids, SET.queries, SET.document_ids, DOCUMENTS, {}),
            "s",
        )


def test_earlier_systems_are_compared_with_the_last(evaluation):
    assert [(each.baseline, each.system, each.metric) for each in evaluation.comparisons] == [
        ("BM25", "fine-tuned", "ndcg@10"),
        ("base", "fine-tuned", "ndcg@10"),
    ]
    before, after = (evaluation.systems[number].metrics["ndcg@10"] for number in (1, 2))
    test = evaluation.comparisons[1].test
    assert test.difference == pytest.approx((after - before).mean())
    assert (test.better, test.equal, test.worse) == (13, 7, 0)


def test_evaluation_file_is_read_back_and_by_the_report(evaluation, tmp_path):
    path = tmp_path / "evaluation.json"
    write_evaluation(evaluation, path)
    back = read_evaluation(path)
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.json"]
    assert (back.set_name, back.split, back.documents, back.comparisons) == (
        "toy test",
        "test",
        49,
        evaluation.comparisons,
    )
    for ours, wanted in zip(back.systems, evaluation.systems, strict=True):
        assert (ours.name, ours.query_ids, list(ours.top)) == (
            wanted.name,
            wanted.query_ids,
            list(wanted.top),
        )
        for metric, values in wanted.metrics.items():
            np.testing.assert_allclose(ours.metrics[metric], values, atol=1e-6)
    assert back.queries["q3"] == SET.queries[3]
    assert set(back.texts) == {
        document
        for system in evaluation.systems
        for hits in system.top.values()
        for document, _ in hits
    }
    (tmp_path / "recipe.yaml").write_text("name: toy\n")
    report = read_run(tmp_path).evaluation
    assert report.systems[-1].name == "fine-tuned"
    assert report.comparisons[1].test.better == 13
    interval = report.systems[-1].summary["ndcg@10"]
    assert interval.low < interval.mean < interval.high
    assert dataclasses.astuple(interval) == pytest.approx(
        dataclasses.astuple(evaluation.systems[-1].interval()), abs=1e-6
    )


def test_old_file_gets_the_correction_of_its_comparisons(evaluation, tmp_path):
    path = tmp_path / "evaluation.json"
    write_evaluation(evaluation, path)
    content = json.loads(path.read_text())
    for entry in content["comparisons"]:
        del entry["corrected_p_value"], entry["detectable"]
    path.write_text(json.dumps(content))
    old = read_evaluation(path).comparisons
    assert [each.corrected_p_value for each in old] == [
        each.corrected_p_value for each in evaluation.comparisons
    ]
    assert old[1].corrected_p_value > old[1].test.p_value
    assert old[1].detectable is None


def test_lines_say_what_is_proven_and_what_could_have_been(evaluation):
    text = " ".join(shown(*comparison_lines(evaluation)).split())
    corrected = evaluation.comparisons[1].corrected_p_value
    assert f"({corrected:.4f} corrected for 2 comparisons); 13 queries better" in text
    assert "0 worse. Better, proven." in text
    alike = compare(SET, "test", [result("base", 1, 2), result("fine-tuned", 2, 1, 1)])
    text = " ".join(shown(*comparison_lines(alike)).split())
    assert "corrected" not in text, "of one comparison"
    difference = alike.comparisons[0].detectable
    assert 0.05 < difference < 0.5
    assert (
        f"Nothing is proven: with these queries, a difference of {difference:.3f} is found with a"
        " probability of 80 %." in text
    )


def test_equal_systems_and_few_queries_have_their_own_words():
    same = compare(SET, "test", [result("base", 1, 2), result("fine-tuned", 1, 2)])
    assert "0 worse. No query differs." in " ".join(shown(*comparison_lines(same)).split())
    few = dataclasses.replace(SET, query_ids=SET.query_ids[:5], queries=SET.queries[:5])
    systems = [result("base", 2, queries=few), result("fine-tuned", 1, queries=few)]
    text = " ".join(shown(*comparison_lines(compare(few, "test", systems))).split())
    assert "5 queries better, 0 equal, 0 worse. Nothing is proven: it cannot be with so" in text


@pytest.mark.parametrize(
    "damage", ["[]", "{}", '{"format": 2}', "not json", '{"format": 1, "query_ids": 3}']
)
def test_file_that_is_no_evaluation_is_refused(tmp_path, damage):
    (tmp_path / "evaluation.json").write_text(damage)
    with pytest.raises(BadData, match=r"evaluation\.json"):
        read_evaluation(tmp_path / "evaluation.json")


def test_missing_value_is_refused(evaluation, tmp_path):
    path = tmp_path / "evaluation.json"
    write_evaluation(evaluation, path)
    content = json.loads(path.read_text())
    content["systems"][0]["metrics"]["map"].pop()
    path.write_text(json.dumps(content))
    with pytest.raises(BadData, match="19 values of map for 20 queries"):
        read_evaluation(path)


def test_table_fits_the_screen(evaluation):
    text = shown(comparison_table(evaluation), *comparison_lines(evaluation))
    assert max(map(len, text.splitlines())) <= 100
    assert max(map(len, shown(comparison_table(evaluation), width=200).splitlines())) <= 80
    assert "toy test: 20 queries, 49 documents" in text
    assert "nDCG@10 [95 %]" in text
    assert [line.split()[0] for line in text.splitlines()[2:5]] == ["BM25", "base", "fine-tuned"]
    mean = evaluation.systems[2].mean()
    assert f"{mean:.3f} [" in text
    assert "fine-tuned vs base: nDCG@10 +0." in text
    assert "13 queries better, 7 equal, 0 worse" in " ".join(text.split())


def test_table_of_images_fits_a_narrow_screen_uncut(evaluation):
    systems = tuple(
        dataclasses.replace(
            system,
            name=f"runs/icons-of-another-shop-{system.name}/model",
            metrics={
                "ndcg@10": system.metrics["ndcg@10"],
                "mrr@10": system.metrics["mrr@10"],
                "recall@10": system.metrics["recall@10"],
                "image_to_text_ndcg@10": system.metrics["ndcg@10"],
                "image_to_text_recall@10": system.metrics["recall@10"],
            },
        )
        for system in evaluation.systems
    )
    table = shown(comparison_table(dataclasses.replace(evaluation, systems=systems)), width=80)
    assert max(map(len, table.splitlines())) <= 80
    headers, first_row = table.splitlines()[2:4]
    assert headers.split("]")[1].split() == ["MRR@10", "recall@10", "nDCG@10", "recall@10"]
    assert "…" not in headers
    assert first_row.count("…") == 1, "only the front of the name is cut"


def test_title_is_one_line_above_a_narrower_table():
    queries = RetrievalSet("azure", ("q",), ("q",), ("d",), ("d",), {"q": {"d": 1}})
    alone = SystemResult("BM25", ("q",), {"ndcg@10": np.ones(1)}, {"q": [("d", 1.0)]})
    title = shown(comparison_table(compare(queries, "test", [alone]))).splitlines()[0]
    assert title.rstrip() == "azure: 1 queries, 1 documents; means [95 % interval]"


def test_example_searches_are_selected_by_hash_and_mark_relevant_documents(evaluation):
    before, after = evaluation.systems[1:]
    text = shown(search_examples(SET, before, after, count=20))
    assert text == shown(search_examples(SET, before, after, count=20))
    for query in SET.queries:
        assert query in text
    three = shown(search_examples(SET, before, after))
    first = sorted(SET.queries, key=identity)[:3]
    assert [line for line in three.splitlines() if line in SET.queries] == first
    assert three.count("fine-tuned: first right document at rank") == 3
    ticked = [line.split(". ", 1)[1] for line in text.splitlines() if "✓" in line and ". " in line]
    assert set(ticked) <= {SET.documents[2 * number] for number in range(20)}
    assert len(ticked) == 34  # base shows ranks 1 and 2 of 1, 2, 5 and fine-tuned all of its own


def test_query_without_a_relevant_result_is_shown(evaluation):
    lost = result("lost", 30)
    assert "lost: no right document among the first 10" in shown(
        search_examples(SET, lost, lost, count=1)
    )


def test_escape_sequences_in_data_do_not_reach_the_terminal():
    nasty = "\x1b[31mred\x07 \u202eback\r[bold]plain[/bold]"
    queries = RetrievalSet(nasty, ("q",), (nasty,), ("d",), (nasty,), {"q": {"d": 1}})
    first, second = (
        SystemResult(name, ("q",), {"ndcg@10": np.ones(1)}, {"q": [("d", 1.0)]})
        for name in (nasty, "other")
    )
    whole = compare(queries, "test", [first, second])
    text = shown(
        comparison_table(whole), *comparison_lines(whole), search_examples(queries, first, second)
    )
    assert not {"\x1b", "\x07", "\u202e", "\r"} & set(text)
    assert "\\x1b[31mred\\x07" in text
    assert "[bold]plain[/bold]" in text
