"""Weights of views that are learned on judged queries, kept in their folder, and used."""

import json
import shutil

import pytest
from late_interaction_toys import new_encoder
from toy_models import SENTENCES, save_sparse_toy
from verbs import command_caller

import nearfar
from trainer.cli.evaluate import evaluate
from trainer.cli.index import add, delete, index
from trainer.cli.search import search
from trainer.errors import BadFolder, BadRecipe
from trainer.evaluation.evaluation_file import read_evaluation
from trainer.evaluation.systems.names import parse_system
from trainer.evaluation.systems.open import SystemOpener, SystemSettings
from trainer.evaluation.systems.system import Corpus
from trainer.models.formats.folder import save_encoder

call = command_caller(add, delete, evaluate, index, search, must_succeed=True)
WORDS = " ".join(SENTENCES).split()
TEXTS = [" ".join(WORDS[row : row + 4]) for row in range(20)]
QUESTION = "delete a disk in the region"


def write_data(folder):
    """A data set in BEIR layout. The question of a document is its last two words."""
    (folder / "qrels").mkdir(parents=True)
    documents = [{"_id": f"doc{row}", "text": text} for row, text in enumerate(TEXTS)]
    questions = [
        {"_id": f"q{row}", "text": " ".join(text.split()[2:])} for row, text in enumerate(TEXTS)
    ]
    for name, lines in (("corpus", documents), ("queries", questions)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for split, rows in (("dev", range(0, 20, 2)), ("test", range(1, 20, 2))):
        qrels = "".join(f"q{row}\tdoc{row}\t1\n" for row in rows)
        (folder / "qrels" / f"{split}.tsv").write_text(f"query-id\tcorpus-id\tscore\n{qrels}")
    return folder


@pytest.fixture(scope="module")
def built(toy_folder, tmp_path_factory):
    """Two views whose weights are learned, their models, and data; not to be changed."""
    folder, bert = tmp_path_factory.mktemp("weights"), toy_folder("bert")
    save_sparse_toy(bert, folder / "sparse")
    save_encoder(new_encoder(bert), folder / "late")
    (folder / "dense").symlink_to(bert)
    data = write_data(folder / "data")
    for name in ("dense", "sparse"):
        call("index", folder / name, data, "-o", folder / "idx", "--view", name)
    learn(folder, folder / "idx", "dense,sparse")
    return folder


@pytest.fixture
def copy(built, tmp_path):
    return shutil.copytree(built / "idx", tmp_path / "idx")


def learn(built, folder, views, *options):
    out = folder.parent / "evaluation.json"
    call(
        *("evaluate", f"index:{folder}", "--data", built / "data", "--learn-weights", views),
        *("--out", out, *options),
    )
    return read_evaluation(out).systems[-1]


def kept(folder):
    return json.loads((folder / "manifest.json").read_text())["weights"]


def results(folder, *options):
    """The score of each hit, and what is said about weights."""
    page = call("search", folder, QUESTION, "-k", 20, "--json", "--hybrid", *options)
    return {hit["id"]: hit["score"] for hit in json.loads(page.stdout)}, page.stderr


def option(weights):
    return "--weights", ",".join(f"{name}={weight}" for name, weight in weights.items() if weight)


def test_weights_are_the_best_on_dev_and_say_where_they_come_from(built):
    record = kept(built / "idx")
    assert (record["learned_on"], record["queries"]) == ("data dev", 10)
    parts = "+".join(f"index:{built}/idx/views/{name}" for name in ("dense", "sparse"))
    call(
        *("evaluate", f"weighted:{parts}", "--data", built / "data", "--no-bm25"),
        *("--out", built / "weighted.json"),
    )
    (system,) = read_evaluation(built / "weighted.json").systems
    terms = [f"{weight:.1f} index:" for weight in record["weights"].values()]
    assert all(term in system.note for term in terms)
    assert f"where they have nDCG@10 {record['ndcg_at_10']:.3f}" in system.note


def test_search_uses_the_weights_and_says_so(built):
    folder, weights = built / "idx", kept(built / "idx")["weights"]
    scores, messages = results(folder)
    assert scores == results(folder, *option(weights))[0]
    assert "learned on 10 queries of data dev, where they have nDCG@10 0." in messages
    ranks, messages = results(folder, "--weights", "ranks")
    assert "learned" not in messages
    assert ranks != scores
    assert max(ranks.values()) <= round(2 / 61, 6)
    (hit, *_) = nearfar.search(folder, QUESTION, hybrid=True)
    assert hit.score == pytest.approx(max(scores.values()), abs=1e-6)


def give_weights(folder):
    """Gives both views a weight: on so few questions, the best one may be 0."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["weights"]["weights"] = {"dense": 0.4, "sparse": 0.6}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_evaluation_measures_what_search_does(copy):
    give_weights(copy)
    corpus = Corpus("toys", [f"doc{row}" for row in range(20)], TEXTS)
    opener = SystemOpener(corpus, SystemSettings("fp32"))
    system = opener.open(parse_system(f"index:{copy}"))
    scores, messages = results(copy)
    assert system.search({"q": QUESTION}, 20)["q"] == pytest.approx(scores, abs=1e-6)
    assert system.note in " ".join(messages.split())


def test_weights_of_bm25_are_learned_and_used_too(built, copy):
    system = learn(built, copy, "dense,bm25")
    record = kept(copy)
    assert record["weights"].keys() == {"dense", "bm25"}
    assert record["weights"]["bm25"] > 0, "the words of a question are in its document"
    scores, messages = results(copy)
    assert scores == results(copy, *option(record["weights"]))[0]
    assert "not searched: sparse" in messages
    assert "not searched: sparse" in system.note


def test_weights_stay_when_documents_change_or_a_view_comes(built, copy):
    record = kept(copy)
    call("delete", copy, "doc7")
    corpus = copy.parent / "corpus.jsonl"
    lines = (built / "data" / "corpus.jsonl").read_text().splitlines(keepends=True)
    corpus.write_text("".join([*lines[:7], *lines[8:]]))
    call("index", built / "late", corpus, "-o", copy, "--view", "late")
    assert kept(copy) == record
    scores, messages = results(copy)
    assert len(scores) == 19
    assert "learned on 10 queries" in messages
    assert "not searched: late" in messages


def test_weights_are_void_when_a_view_is_of_another_model(built, copy, toy_folder):
    options = ("-o", copy, "--view", "dense", "--replace")
    call("index", built / "dense", built / "data", *options)
    assert "learned on 10 queries" in results(copy)[1], "the same model again"
    call("index", toy_folder("roberta"), built / "data", *options)
    scores, messages = results(copy)
    assert "void, because the view dense is of another model now" in " ".join(messages.split())
    assert scores == results(copy, "--weights", "ranks")[0]
    system = learn(built, copy, "dense,sparse")
    assert "learned on 10 queries" in system.note
    assert "learned on 10 queries" in results(copy)[1]


def test_weights_are_void_when_a_view_is_gone(copy):
    give_weights(copy)
    shutil.rmtree(copy / "views" / "sparse")
    scores, messages = results(copy)
    assert "void, because the view sparse is gone" in " ".join(messages.split())
    assert len(scores) == 20


def test_impossible_learning_is_refused_and_changes_nothing(built, copy):
    manifest = (copy / "manifest.json").read_bytes()
    data, no_dev = built / "data", shutil.copytree(built / "data", copy.parent / "no_dev")
    (no_dev / "qrels" / "dev.tsv").unlink()
    for system, views, judged_queries, error, message in (
        ("bm25", "dense,sparse", data, BadRecipe, "one folder of views among the systems"),
        (f"index:{copy}/views/dense", "dense,sparse", data, BadRecipe, "one folder of views"),
        (f"index:{copy}", "dense", data, BadRecipe, "two or three different views"),
        (f"index:{copy}", "dense,dense", data, BadRecipe, "two or three different views"),
        (f"index:{copy}", "dense,word", data, BadFolder, "has no view 'word'"),
        (f"index:{copy}", "dense,sparse", no_dev, BadRecipe, "no dev queries beside"),
        (f"index:{copy}", "dense,sparse", data, None, ""),
    ):
        command = ("evaluate", system, "--data", judged_queries, "--learn-weights", views)
        if error is None:
            call(*command)
            assert kept(copy) == json.loads(manifest)["weights"]
            continue
        with pytest.raises(error, match=message):
            call(*command)
        assert (copy / "manifest.json").read_bytes() == manifest


def test_evaluation_goes_on_where_bm25_alone_is_best(built, tmp_path):
    """The model prefers the text in the order of the question, and the other one is right."""
    pairs = [WORDS[row : row + 2] for row in range(12)]
    texts = [" ".join(words) for pair in pairs for words in (pair, pair[::-1])]
    (tmp_path / "data" / "qrels").mkdir(parents=True)
    documents = [{"_id": f"doc{row:02}", "text": text} for row, text in enumerate(texts)]
    questions = [{"_id": f"q{row}", "text": " ".join(pair)} for row, pair in enumerate(pairs)]
    for name, lines in (("corpus", documents), ("queries", questions)):
        file = tmp_path / "data" / f"{name}.jsonl"
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for split, numbers in (("dev", range(6)), ("test", range(6, 12))):
        qrels = "".join(f"q{number}\tdoc{2 * number + 1:02}\t1\n" for number in numbers)
        file = tmp_path / "data" / "qrels" / f"{split}.tsv"
        file.write_text(f"query-id\tcorpus-id\tscore\n{qrels}")
    call("index", built / "dense", tmp_path / "data", "-o", tmp_path / "idx", "--view", "dense")
    manifest = (tmp_path / "idx" / "manifest.json").read_bytes()
    page = call(
        *("evaluate", f"index:{tmp_path / 'idx'}", "--data", tmp_path / "data"),
        *("--learn-weights", "dense,bm25"),
    )
    assert "BM25 alone is best" in page.stderr
    assert "BM25" in page.stdout, "the table is printed"
    assert (tmp_path / "idx" / "manifest.json").read_bytes() == manifest
