"""Selection among candidates: what is dropped, what cannot be told apart, what is recommended."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from verbs import command_caller

from trainer.cli.evaluate import evaluate
from trainer.cli.index import index
from trainer.cli.measure.selection import select as select_verb
from trainer.errors import BadModel, BadRecipe, SystemsFailed
from trainer.evaluation.judged_data import LocalData
from trainer.evaluation.mteb.catalogue import ModelQuery, find_models
from trainer.evaluation.results import SystemResult
from trainer.evaluation.systems import encoded_documents
from trainer.evaluation.systems import system as system_classes
from trainer.evaluation.systems.failures import SystemErrors
from trainer.evaluation.systems.names import parse_system
from trainer.evaluation.systems.open import DEFAULTS
from trainer.recipe.load import load_recipe
from trainer.recipe.shipped import recipe_file
from trainer.retrieval.encoding.encode import encode_documents, encode_queries
from trainer.selection.candidates import Limits, read_candidates
from trainer.selection.choice import choose, keeps
from trainer.selection.halving import drop
from trainer.selection.measure import Cost, Measurement
from trainer.selection.probe import _fit_words
from trainer.selection.samples import sample_set
from trainer.selection.select import _Rounds, select

call = command_caller(select_verb, evaluate, index)
QUERIES = 120
WORDS = ("disk", "storage", "account", "query", "database", "machine", "region", "western")


def measured(name, quality, milliseconds, memory=10.0, noise=0.05):
    """A candidate with a mean nDCG@10 near `quality`."""
    values = np.clip(
        quality + noise * np.random.default_rng(len(name)).standard_normal(QUERIES), 0, 1
    )
    ids = tuple(f"q{number}" for number in range(QUERIES))
    cost = Cost(100.0, milliseconds, 2 * milliseconds, memory, 1.0)
    return Measurement(name, SystemResult(name, ids, {"ndcg@10": values}, {}), cost)


class TestDrop:
    def test_worse_half_is_dropped(self):
        names = {
            one.candidate
            for one in drop(
                [measured(f"m{number}", 0.5 + 0.1 * number, 10.0) for number in range(4)], Limits()
            )
        }
        assert names == {"m0", "m1"}

    def test_cheaper_candidate_stays_unless_it_is_proven_worse(self):
        better_half = [
            measured("best", 0.60, 50.0, noise=0.3),
            measured("second", 0.60, 40.0, noise=0.3),
        ]
        near, far = measured("near", 0.56, 1.0, noise=0.3), measured("far", 0.2, 1.0)
        lowest = min([*better_half, near], key=lambda one: one.result.mean())
        assert lowest is near
        assert not drop([*better_half, near], Limits())
        (one,) = drop([*better_half, far], Limits())
        assert one.candidate == "far"
        assert "(p = 0.000)" in one.reason

    def test_candidate_over_the_limits_is_dropped_first(self):
        slow, quick = measured("slow", 0.9, 100.0), measured("quick", 0.5, 1.0)
        (one,) = drop([slow, quick], Limits(latency_ms=50.0))
        assert one.candidate == "slow"
        assert "over the limits: 200.0 ms" in str(one)
        assert not drop([slow, quick], Limits(latency_ms=1.0)), "none keeps them: all stay"

    def test_cost_over_the_limit_is_named(self):
        large, small = measured("large", 0.9, 10.0, memory=90.0), measured("small", 0.5, 10.0)
        (one,) = drop([large, small], Limits(latency_ms=50.0, memory_mb=50.0))
        assert one.reason == "over the limits: 90.0 MB"


class TestChoice:
    def test_quickest_of_the_equals_is_recommended(self):
        best = measured("best", 0.80, 50.0, noise=0.3)
        equal, worse = measured("equals", 0.795, 5.0, noise=0.3), measured("worse", 0.4, 1.0)
        choice = choose([best, equal, worse], Limits())
        assert choice.best is max([best, equal], key=lambda one: one.result.mean())
        assert choice.group == (equal, best)
        assert choice.recommendation is equal
        assert worse in choice.efficient

    def test_limits_exclude_candidates(self):
        best, small = measured("best", 0.9, 5.0, memory=900.0), measured("small", 0.5, 5.0)
        assert choose([best, small], Limits(memory_mb=100.0)).recommendation is small
        assert choose([best, small], Limits(memory_mb=1.0)).recommendation is None
        assert keeps(best.cost, Limits(latency_ms=10.0, index_mb=1.0))
        assert not keeps(best.cost, Limits(latency_ms=9.9)), "the slow searches count"

    def test_dominated_candidate_is_not_efficient(self):
        best, dominated = measured("best", 0.9, 5.0), measured("dominated", 0.5, 6.0)
        assert choose([best, dominated], Limits()).efficient == (best,)


class TestCandidates:
    def test_file_has_candidates_and_limits(self, tmp_path):
        file = tmp_path / "c.yaml"
        file.write_text(
            "candidates: [bm25, {system: a/model, trained_on: [MS MARCO]}]\n"
            "limits: {latency_ms: 20, memory_mb: 500}\n"
        )
        candidates, limits = read_candidates([str(file)])
        assert [str(one.system) for one in candidates] == ["bm25", "a/model"]
        assert candidates[1].has_seen("msmarco")
        assert limits == Limits(latency_ms=20.0, memory_mb=500.0)
        assert str(limits) == "latency_ms 20, memory_mb 500"

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("systems: [bm25]", "'systems' is not known"),
            ("candidates: [bm25]", "name two or more"),
            ("candidates: [bm25, bm25]", "bm25 is named twice"),
            ("candidates: [bm25, {model: a}]", "is neither a system nor a map"),
            ("candidates: [bm25, {system: a, seen: [b]}]", "'seen' is not known"),
            ("candidates: [bm25, a]\nlimits: {latency: 3}", "'latency' is not known"),
            ("candidates: [bm25, a]\nlimits: {latency_ms: fast}", "must be a number above 0"),
            ("candidates: [bm25]\nmodels: {size: 3}", "'size' is not known"),
            ("candidates: [bm25]\nmodels: {licences: mit}", "must be a list of names"),
        ],
    )
    def test_mistake_in_the_file_is_named(self, tmp_path, text, problem):
        file = tmp_path / "c.yaml"
        file.write_text(text)
        with pytest.raises(BadRecipe, match=problem):
            read_candidates([str(file)])

    def test_file_beside_names_and_run_file_are_refused(self):
        with pytest.raises(BadRecipe, match="c.yaml is a file of candidates: give it alone"):
            read_candidates(["bm25", "c.yaml"])
        with pytest.raises(BadRecipe, match="hybrid:bm25.run:a.trec is a run file"):
            read_candidates(["bm25", "hybrid:bm25+run:a.trec"])


class TestCatalogue:
    """mteb's own catalogue, which is in its package."""

    @pytest.fixture(autouse=True)
    def _needs_mteb(self):
        pytest.importorskip("mteb", reason="mteb is not installed: pip install 'nearfar[mteb]'")

    def test_models_that_fit_are_added(self, tmp_path):
        file = tmp_path / "c.yaml"
        file.write_text(
            "candidates: [bm25, sentence-transformers/all-MiniLM-L6-v2]\n"
            "models: {max_parameters_millions: 23, licences: [apache-2.0], languages: [eng],"
            " least_max_tokens: 256, not_trained_on: [NFCorpus], count: 4}\n"
        )
        candidates, _ = read_candidates([str(file)])
        names = [str(candidate.system) for candidate in candidates]
        assert len(names) == len(set(names)) >= 4
        query = ModelQuery(23, ("apache-2.0",), ("eng",), 256, ("NFCorpus",), 4)
        models = find_models(query)
        assert len(models) == 4
        assert all(model.parameters <= 23_000_000 for model in models)
        assert all("NFCorpus" not in model.trained_on for model in models)
        assert set(names[2:]) <= {model.name for model in models}

    def test_known_training_data_are_added(self):
        candidates, _ = read_candidates(
            ["bm25", "hybrid:bm25+sentence-transformers/all-MiniLM-L6-v2"]
        )
        assert not candidates[0].trained_on
        assert candidates[1].has_seen("MSMARCO")

    def test_query_that_no_model_fits_is_an_error(self):
        with pytest.raises(BadRecipe, match="fits ModelQuery"):
            find_models(ModelQuery(languages=("xyz",)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A BEIR folder in which words decide."""
    folder = tmp_path_factory.mktemp("data") / "toyset"
    (folder / "qrels").mkdir(parents=True)
    texts = [f"{a} {b} {c}" for a in WORDS for b in WORDS for c in WORDS[:4]]
    rows = enumerate(texts)
    corpus = [
        {"_id": f"d{row}", "title": "", "text": f"a {text} number {row}"} for row, text in rows
    ]
    queries = [
        {"_id": f"q{row}", "text": f"{texts[2 * row]} number {2 * row}"} for row in range(120)
    ]
    for name, lines in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for split, numbers in (("test", range(110)), ("dev", range(110, 120))):
        lines = [f"q{number}\td{2 * number}\t1" for number in numbers]
        (folder / f"qrels/{split}.tsv").write_text(
            "\n".join(["query-id\tcorpus-id\tscore", *lines, ""])
        )
    return folder


def test_sample_has_the_judged_and_the_near_documents(folder):
    judged_set = LocalData(str(folder)).read()
    sample = sample_set(judged_set, 1 / 3, 30, LocalData(str(folder)).read_dev())
    assert len(sample.queries) == 37
    assert len(judged_set.documents) / 3 <= len(sample.documents) < len(judged_set.documents)
    assert {document for grades in sample.qrels.values() for document in grades} <= set(
        sample.document_ids
    )
    assert {f"d{2 * number}" for number in range(110, 120)} <= set(sample.document_ids)
    assert "too high" in sample.limitation


def test_halving_finds_the_winner_of_all_measurements(folder, toy_folder):
    models = [str(toy_folder(kind)) for kind in ("bert", "mpnet")]
    names = ["bm25", *models, f"hybrid:{models[0]}+bm25", f"weighted:{models[1]}+bm25"]
    candidates, limits = read_candidates(names)
    data = LocalData(str(folder))
    told = []
    quick = select(candidates, data, limits, tell=told.append)
    unhalved = select(candidates, data, limits, halving=False)
    assert len(unhalved.measurements) == 5
    assert len(quick.measurements) + len(quick.drops) == 5
    assert quick.drops, "something was dropped"
    assert quick.choice.best.candidate == unhalved.choice.best.candidate
    final = {one.candidate: one for one in unhalved.measurements}
    for one in quick.measurements:
        assert one.result.mean() == pytest.approx(final[one.candidate].result.mean())
    costs = {name: one.cost for name, one in final.items()}
    hybrid = costs[names[3]]
    assert hybrid.memory_mb == pytest.approx(costs["bm25"].memory_mb + costs[models[0]].memory_mb)
    assert costs["bm25"].memory_mb == costs["bm25"].index_mb > 0
    assert all(cost.latency_ms <= cost.latency_p95_ms for cost in costs.values())


def test_candidate_with_too_large_weights_is_not_measured(folder, toy_folder):
    model = str(toy_folder("bert"))
    names = ["bm25", model, f"hybrid:{model}+bm25"]
    candidates, data = read_candidates(names)[0], LocalData(str(folder))
    selection = select(candidates, data, Limits(memory_mb=0.05))
    assert [one.candidate for one in selection.measurements] == ["bm25"]
    assert {drop.candidate for drop in selection.drops} == {*names[1:]}
    assert all("dropped before it was measured" in str(drop) for drop in selection.drops)
    assert all(re.search(r"0\.\d+ MB of weights", str(drop)) for drop in selection.drops)
    one_model = select(candidates[1:], data, Limits(memory_mb=0.001))
    assert len(one_model.measurements) == 2, "none keeps the limits: all are measured"
    assert one_model.choice.recommendation is None


def test_document_of_a_sample_is_not_encoded_again(folder, toy_folder, monkeypatch):
    encoded_texts = []

    def encode(encoder, texts, **settings):
        encoded_texts.extend(texts)
        return encode_documents(encoder, texts, **settings)

    monkeypatch.setattr(encoded_documents, "encode_documents", encode)
    model = str(toy_folder("bert"))
    names = ["bm25", model, f"hybrid:{model}+bm25"]
    data = LocalData(str(folder))
    selection = select(read_candidates(names)[0], data)
    assert selection.drops, "there was a round before the last one"
    assert any(model in one.candidate for one in selection.measurements), "the model was in both"
    assert sorted(encoded_texts) == sorted(data.read().documents)
    speeds = [one.cost.documents_per_second for one in selection.measurements]
    assert all(speed > 0 for speed in speeds)


def test_queries_are_encoded_once_for_a_model_and_its_hybrids(folder, toy_folder, monkeypatch):
    counts = []

    def encode(encoder, queries, **settings):
        counts.append(len(queries))
        return encode_queries(encoder, queries, **settings)

    monkeypatch.setattr(system_classes, "encode_queries", encode)
    model = str(toy_folder("bert"))
    candidates = read_candidates([model, f"hybrid:{model}+bm25"])[0]
    select(candidates, LocalData(str(folder)), halving=False)
    assert [count for count in counts if count > 1] == [110]
    assert counts.count(1) == 2 * 53, "each latency is that of a search with encoding"


def test_command_writes_page_and_file(folder, toy_folder, tmp_path):
    file = tmp_path / "c.yaml"
    model = toy_folder("bert")
    file.write_text(f"candidates: [bm25, {{system: '{model}', trained_on: [toyset]}}]\n")
    printed = call("select", file, "--data", folder, "-o", tmp_path / "out").stdout
    assert "Recommended: bm25" in printed
    assert "was trained on" in printed
    page = (tmp_path / "out/selection.html").read_text()
    assert "Recommended: bm25" in page
    assert not re.search(r"(src|href)=\"http", page)
    record = json.loads((tmp_path / "out/selection.json").read_text())
    assert record["best"] == record["recommended"] == "bm25"
    assert record["candidates"][0]["cost"]["latency_ms"] > 0


def test_index_is_measured_on_all_documents_also_with_halving(folder, toy_folder, tmp_path):
    model, index_folder = toy_folder("bert"), tmp_path / "idx"
    call("index", model, folder, "-o", index_folder)
    names = ["bm25", str(model), f"hybrid:{model}+bm25", f"index:{index_folder}"]
    selection = select(read_candidates(names)[0], LocalData(str(folder)))
    assert not selection.failures
    assert selection.drops, "the others were halved"
    assert names[3] in {one.candidate for one in selection.measurements}


def test_reranker_may_be_a_run_folder(folder, tmp_path):
    rounds = _Rounds(LocalData(str(folder)).read(), None, DEFAULTS, print)
    (tmp_path / "model").mkdir()
    system = parse_system("rerank:bm25+runs/a")
    (checked,) = rounds.check([system], lambda name: str(tmp_path / "model"))
    assert checked.value == str(tmp_path / "model")


def test_result_is_written_before_a_probe_fails(folder, tmp_path):
    words = ("select", "bm25", "hybrid:bm25+bm25", "--data", folder, "--probe", 2, "-o", tmp_path)
    with pytest.raises(BadRecipe, match="no candidate could be probed"):
        call(*words)
    assert (tmp_path / "selection.json").exists()


def test_table_fits_a_narrow_terminal(folder, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    printed = call("select", "bm25", "hybrid:bm25+bm25", "--data", folder).stdout
    assert max(map(len, printed.splitlines())) <= 80
    assert "recommended)" in printed


def test_candidate_that_cannot_be_loaded_does_not_stop_the_others(folder, toy_folder, tmp_path):
    missing, out = str(tmp_path / "missing"), tmp_path / "out"
    with pytest.raises(SystemsFailed, match="missing could not be measured"):
        call("select", "bm25", toy_folder("bert"), missing, "--data", folder, "-o", out)
    record = json.loads((out / "selection.json").read_text())
    assert len(record["candidates"]) == 2
    assert [failure["system"] for failure in record["failures"]] == [missing]
    with pytest.raises(SystemsFailed):
        call("select", "bm25", missing, "--data", folder, "-o", out)
    page = (out / "selection.html").read_text()
    assert "bm25 is the only one that was measured on all queries" in page
    with pytest.raises(BadModel, match="no candidate could be measured"):
        call("select", missing, f"{missing}-too", "--data", folder)


BROKEN = {
    "truncated": ("model.safetensors", lambda old: old[: len(old) // 2], "should hold .* bytes"),
    "no-tokenizer": ("tokenizer.json", None, "has no tokenizer"),
    "tokenizer-list": ("tokenizer.json", lambda old: b"[]", "holds a list where an object was"),
    "length": ("tokenizer_config.json", {"model_max_length": "long"}, "model_max_length is long"),
    "another": ("config.json", {"model_type": "gpt2"}, "weights of GPT2Model are missing"),
    "own-code": (
        "config.json",
        {"model_type": "mine", "auto_map": {"AutoModel": "a.B"}},
        "asks for code of its own, which is never run",
    ),
    "activation": (
        "config.json",
        {"hidden_act": "mine"},
        "describes no possible bert model: 'mine'",
    ),
    "xlnet": ("config.json", {"model_type": "xlnet"}, "does not fit architecture xlnet"),
    "heads": ("config.json", {"num_attention_heads": -1}, "a count is not negative"),
    "architectures": ("config.json", {"architectures": 3, "vocab_size": 0}, "no possible bert"),
}
"""What is changed in the folder of a model, and the reason that must be named."""


def test_broken_candidates_are_set_aside_with_their_reasons(folder, toy_folder, tmp_path):
    model = toy_folder("bert")
    for name, (file, change, _) in BROKEN.items():
        path = shutil.copytree(model, tmp_path / name) / file
        if change is None:
            path.unlink()
        elif isinstance(change, dict):
            path.write_text(json.dumps(json.loads(path.read_text()) | change))
        else:
            path.write_bytes(change(path.read_bytes()))
    names = ["bm25", str(model), *(str(tmp_path / name) for name in BROKEN)]
    told = []
    candidates, limits = read_candidates(names)
    selection = select(candidates, LocalData(str(folder)), limits, halving=False, tell=told.append)
    assert {one.candidate for one in selection.measurements} == {"bm25", str(model)}
    problems = {Path(failure.system).name: failure.problem for failure in selection.failures}
    assert problems.keys() == BROKEN.keys()
    for name, (_, _, reason) in BROKEN.items():
        assert re.search(reason, problems[name]), problems[name]
    assert not any(problem in line for line in told for problem in problems.values())


def test_error_of_ours_is_not_set_aside():
    errors = SystemErrors(print)
    with pytest.raises(ZeroDivisionError), errors.note_failure("a"):
        raise ZeroDivisionError
    assert not errors.failures()


def test_probe_trains_on_the_data_that_were_measured():
    data = LocalData("owner/set", columns={"query": "title"}, corpus="docs.jsonl")
    words = _fit_words("some/model", data, 50)
    run = load_recipe(recipe_file("bi-encoder-lora"), words[3:])
    assert (run.data.train, run.data.test) == ("owner/set", "owner/set")
    assert (run.data.corpus, run.data.columns) == ("docs.jsonl", {"query": "title"})
    assert run.model.backbone == "some/model"


def test_probe_without_a_training_split_is_refused_before_anything_is_measured(folder, tmp_path):
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"query": "a", "positive": "b"}\n')
    probe = ("select", "bm25", "hybrid:bm25+bm25", "--probe", 2, "-o", tmp_path / "out")
    with pytest.raises(BadRecipe, match="it would train on the test queries"):
        call(*probe, "--data", pairs)
    with pytest.raises(BadRecipe, match="measures the test split, and --split is dev"):
        call(*probe, "--data", folder, "--split", "dev")


def test_probe_trains_the_models_alone(folder, toy_folder, tmp_path):
    trained = tmp_path / "toyset"
    shutil.copytree(folder, trained)
    lines = [f"q{number}\td{2 * number}\t1" for number in range(100)]
    (trained / "qrels/train.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *lines, ""]))
    test = "query-id\tcorpus-id\tscore\n" + "".join(f"q{n}\td{2 * n}\t1\n" for n in range(100, 110))
    (trained / "qrels/test.tsv").write_text(test)
    model, out = toy_folder("bert"), tmp_path / "out"
    printed = call(*("select", "bm25", model, "--data", trained, "--probe", 4, "-o", out)).stdout
    (probe,) = json.loads((out / "selection.json").read_text())["probes"]
    assert probe["candidate"] == str(model)
    assert 0 <= probe["base"]["mean"] <= probe["fine_tuned"]["mean"] <= 1
    assert "after 4 steps" in " ".join(printed.split())
    (run,) = out.glob("probe-*")
    assert (run / "model").is_dir()
