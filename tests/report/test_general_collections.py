"""General collections in what a run with two of them leaves behind."""

import json
import re

from trainer.evaluation.evaluation_file import read_evaluation


def test_base_and_tuned_model_are_stored_for_each_collection(toy_run):
    general = read_evaluation(toy_run / "evaluation.json").general
    assert [(each.set_name, each.documents) for each in general] == [
        ("birds test", 3),
        ("tools test", 13),
    ]
    assert [system.name for system in general[0].systems] == ["base", "fine-tuned"]
    assert [each.leaked_queries for each in general] == [0, 1]
    before = read_evaluation(toy_run / "baselines.json").general
    assert before[1].systems[0].mean() == general[1].systems[0].mean()


def test_report_and_model_card_have_the_lines(toy_run):
    page, card = ((toy_run / name).read_text() for name in ("report.html", "model/README.md"))
    items = re.findall(r"<li>(general: .*?)</li>", page)
    assert [item.split(" nDCG")[0] for item in items[:2]] == ["general: birds", "general: tools"]
    assert items[2].startswith("general: mean change ")
    assert "1 of them was a training query too" in items[1]
    assert [line[:16] for line in re.findall(r"^- (general.*)", card, re.MULTILINE)] == [
        "general: birds n",
        "general: tools n",
        "general: mean ch",
    ]


def test_data_facts_count_the_collections(toy_run):
    facts = json.loads((toy_run / "data.json").read_text())
    assert facts["general"]["tools test"] == {"queries": 13, "documents": 13}
    assert {"split": "tools test", "kind": "the same query", "count": 1} in facts["leaks"]
    fingerprints = json.loads((toy_run / "environment.json").read_text())["data"]["general"]
    assert [len(each["sha256"]) for each in fingerprints] == [64, 64]
