"""Views: several indexes of the same documents in one folder, searched alone or together."""

import json
import shutil

import pytest
import torch
from corpus_files import write_corpus
from late_interaction_toys import new_encoder
from toy_models import SENTENCES, save_sparse_toy
from verbs import command_caller

import nearfar
from trainer.cli.index import index
from trainer.cli.search import search
from trainer.errors import BadData, BadFolder, BadModel, BadRecipe
from trainer.evaluation.systems.names import parse_system
from trainer.evaluation.systems.open import SystemOpener, SystemSettings
from trainer.evaluation.systems.system import Corpus
from trainer.models.cross_encoder import CrossEncoderSettings, build_cross_encoder
from trainer.models.formats.folder import save_encoder
from trainer.retrieval.changes.change import delete_documents
from trainer.retrieval.fusion import fuse_scores
from trainer.retrieval.indexes.searcher import Searcher

call = command_caller(index, search)
WORDS = " ".join(SENTENCES).split()
TEXTS = [" ".join(WORDS[row : row + 4]) for row in range(20)]
QUESTION = "delete a disk in the region"


@pytest.fixture(scope="module")
def models(toy_folder, tmp_path_factory):
    """The folder of a model per view, and a cross-encoder."""
    folder, bert = tmp_path_factory.mktemp("models"), toy_folder("bert")
    save_sparse_toy(bert, folder / "sparse")
    save_encoder(new_encoder(bert), folder / "late")
    torch.manual_seed(7)
    save_encoder(build_cross_encoder(CrossEncoderSettings(backbone=str(bert))), folder / "cross")
    (folder / "dense").symlink_to(bert)
    return folder


def write_texts(path, texts):
    return write_corpus(path, {f"doc{row}": text for row, text in enumerate(texts)})


@pytest.fixture(scope="module")
def built(models, tmp_path_factory):
    """A folder of three views that no test changes."""
    folder = tmp_path_factory.mktemp("views")
    corpus = write_texts(folder / "corpus.jsonl", TEXTS)
    for name, kind in (("dense", "flat"), ("sparse", "inverted"), ("late", "exact")):
        options = ("--view", name, "--kind", kind)
        said = call("index", models / name, corpus, "-o", folder / "idx", *options).stdout
        assert f"idx/views/{name}: 20 documents" in said
    return folder / "idx"


def found(folder, *options):
    page = call("search", folder, QUESTION, "-k", 20, "--json", *options).stdout
    return {hit["id"]: hit["score"] for hit in json.loads(page)}


def test_view_is_searched_like_an_ordinary_index(built):
    rankings = {}
    for name in ("dense", "sparse", "late"):
        rankings[name] = found(built, "--view", name)
        assert rankings[name] == found(built / "views" / name)
    assert len({tuple(ranking) for ranking in rankings.values()}) == 3, "they rank differently"
    page = call("search", built, QUESTION, "--view", "sparse", "--explain").stdout
    assert "total" in page


def test_hybrid_search_adds_up_reciprocal_ranks(built):
    scores = {}
    for name in ("dense", "late", "sparse"):
        for rank, document in enumerate(found(built, "--view", name), 1):
            scores[document] = scores.get(document, 0) + 1 / (60 + rank)
    hybrid = found(built, "--hybrid")
    assert hybrid == pytest.approx(scores, abs=1e-6)
    assert list(hybrid.values()) == sorted(hybrid.values(), reverse=True)


def test_hybrid_search_says_that_it_returns_fewer_documents(models, tmp_path):
    corpus = write_texts(tmp_path / "corpus.jsonl", [*TEXTS * 6])
    for name in ("dense", "sparse"):
        call("index", models / name, corpus, "-o", tmp_path / "idx", "--view", name)
    for k, is_told in ((101, False), (120, True)):
        result = call("search", tmp_path / "idx", QUESTION, "--hybrid", "-k", k, "--json")
        count = len(json.loads(result.stdout))
        assert (
            f"{count} hits: the first 101 of each view are combined" in result.stderr
        ) == is_told
        assert (count < k) == is_told


def test_weights_add_up_scaled_scores_of_the_views_that_have_one(built):
    scores = {}
    for name, weight in (("sparse", 3), ("dense", 0.5)):
        view = found(built, "--view", name)
        lowest, highest = min(0, *view.values()), max(view.values())  # not 100 documents
        for document, score in view.items():
            scaled_score = (score - lowest) / (highest - lowest)
            scores[document] = scores.get(document, 0) + weight * scaled_score
    hybrid = found(built, "--hybrid", "--weights", "sparse=3,dense=0.5")
    assert hybrid == pytest.approx(scores, abs=1e-4)


def test_hybrid_hits_are_reordered_by_a_cross_encoder(built, models):
    searcher = Searcher.open(built, hybrid=True, reranker=str(models / "cross"), rerank_depth=5)
    (hits,) = searcher.search([QUESTION], 5)
    first = list(found(built, "--hybrid"))[:5]
    assert sorted(hit.document.id for hit in hits) == sorted(first)
    assert all(first[hit.first_rank - 1] == hit.document.id for hit in hits)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_views_are_built_and_searched_in_python(built, models, tmp_path):
    for view, options in (
        ({"hybrid": True}, ("--hybrid",)),
        ({"view": "sparse"}, ("--view", "sparse")),
    ):
        result = nearfar.search(built, QUESTION, k=20, **view)
        scores = {hit.document.id: hit.score for hit in result.hits}
        assert scores == pytest.approx(found(built, *options), abs=1e-6)
    corpus = built.parent / "corpus.jsonl"
    summary = nearfar.index(models / "dense", corpus, tmp_path / "idx", view="dense")
    assert summary.folder == tmp_path / "idx" / "views" / "dense"
    assert len(nearfar.search(tmp_path / "idx", QUESTION, hybrid=True).hits) == 10


def test_evaluation_of_a_folder_of_views_is_that_of_their_fusion(built):
    settings = SystemSettings("fp32")
    opener = SystemOpener(Corpus("toys", [f"doc{row}" for row in range(20)], TEXTS), settings)
    run = opener.open(parse_system(f"index:{built}")).search({"q": QUESTION}, 20)
    assert run["q"] == pytest.approx(found(built, "--hybrid"), abs=1e-6)


def test_weight_of_bm25_adds_search_by_words_as_in_an_evaluation(built):
    corpus = Corpus("toys", [f"doc{row}" for row in range(20)], TEXTS)
    opener = SystemOpener(corpus, SystemSettings("fp32"))
    systems = [opener.open(parse_system(name)) for name in (f"index:{built}/views/dense", "bm25")]
    runs = [system.search({"q": QUESTION}, 101) for system in systems]
    assert 0 < len(runs[1]["q"]) < 20, "some documents share a word with the question"
    fused_run = fuse_scores(runs, [0.4, 0.6], 20)
    hybrid = found(built, "--hybrid", "--weights", "bm25=0.6,dense=0.4")
    assert hybrid == pytest.approx(fused_run["q"], abs=1e-4)


@pytest.mark.parametrize(
    ("texts", "difference"),
    [
        ([*TEXTS, "one more"], "that one has only 20 documents"),
        (TEXTS[:-1], "it has only 19 documents, and that one has more"),
        ([*TEXTS[:7], "another", *TEXTS[8:]], "document 'doc7' has another title or text there"),
    ],
)
def test_view_of_other_documents_is_refused_before_it_is_encoded(
    built, models, tmp_path, texts, difference
):
    corpus = write_texts(tmp_path / "corpus.jsonl", texts)
    with pytest.raises(BadData, match=difference) as refusal:
        call("index", models / "sparse", corpus, "-o", built, "--view", "other")
    assert refusal.value.exit_code == 2
    # A document that no search could find ends the encoding with another error.
    encoded_late = write_texts(tmp_path / "dots.jsonl", ["...", *texts[1:]])
    with pytest.raises(BadData, match="'doc0' has another title or text there"):
        call("index", models / "late", encoded_late, "-o", built, "--view", "other")
    renamed = tmp_path / "renamed.jsonl"
    renamed.write_text(json.dumps({"_id": "x", "text": TEXTS[0]}) + "\n")
    with pytest.raises(BadData, match="document 1 is 'x' here, and 'doc0' there"):
        call("index", models / "sparse", renamed, "-o", built, "--view", "other")
    assert not (built / "views" / "other").exists()


def test_view_is_built_again_from_the_documents_of_another(models, tmp_path):
    """After a change, no other file has the documents in their order."""
    corpus = tmp_path / "corpus.jsonl"
    lines = [json.dumps({"_id": f"doc{row}", "title": f"title {row}", "text": text}) + "\n"
             for row, text in enumerate(TEXTS)]  # fmt: skip
    corpus.write_text("".join(lines))
    place = tmp_path / "idx"
    for name in ("dense", "sparse"):
        call("index", models / name, corpus, "-o", place, "--view", name)
    delete_documents(place, ["doc3"])
    options = ("-o", place, "--view", "sparse", "--replace")
    with pytest.raises(BadData, match="that is .*idx/views/dense/documents"):
        call("index", models / "sparse", corpus, *options)
    documents = place / "views" / "dense" / "documents.jsonl"
    result = call("index", models / "sparse", documents, *options)
    assert "idx/views/sparse: 19 documents" in result.stdout
    assert (place / "views" / "sparse" / "documents.jsonl").read_bytes() == documents.read_bytes()
    (place / "views" / "sparse" / "manifest.json").unlink()
    with pytest.raises(BadFolder, match="sparse is not an index: it has no manifest"):
        delete_documents(place, ["doc4"])


def test_only_view_may_get_other_documents(models, tmp_path):
    for texts in (TEXTS[:3], TEXTS[:4]):
        corpus = write_texts(tmp_path / "corpus.jsonl", texts)
        options = ("--view", "sparse", "--replace")
        said = call("index", models / "sparse", corpus, "-o", tmp_path / "idx", *options)
        assert f"{len(texts)} documents" in said.stdout


def test_views_and_ordinary_indexes_do_not_mix(built, models, tmp_path):
    corpus = write_texts(tmp_path / "corpus.jsonl", TEXTS)
    for options, message in (((), "--replace"), (("--replace",), "other than an index")):
        with pytest.raises(BadFolder, match=message):
            call("index", models / "dense", corpus, "-o", built, *options)
    call("index", models / "dense", corpus, "-o", tmp_path / "plain")
    with pytest.raises(BadFolder, match="something other than views"):
        call("index", models / "dense", corpus, "-o", tmp_path / "plain", "--view", "dense")
    for options in (("--view", "dense"), ("--hybrid",)):
        with pytest.raises(BadFolder, match="has no views"):
            call("search", tmp_path / "plain", QUESTION, *options)
    for name in ("../dense", "", "Dense", ".hidden", "a/b", "bm25"):
        with pytest.raises(BadRecipe, match="cannot be the name of a view"):
            call("index", models / "dense", corpus, "-o", tmp_path / "idx", "--view", name)
    assert not (tmp_path / "idx").exists()


def test_wrong_options_of_a_search_are_refused(built):
    for options, error, message in (
        ((), BadFolder, "holds the views dense, late, sparse; search one with --view"),
        (("--view", "word"), BadFolder, "has no view 'word'; it has dense, late, sparse"),
        (("--hybrid", "--weights", "word=1"), BadFolder, "has no view 'word'"),
        (("--hybrid", "--weights", "bm25=1"), BadRecipe, "bm25 alone"),
        (("--hybrid", "--weights", "bm25=1,dense=1", "--explain"), BadModel, "combines several"),
        (("--hybrid", "--weights", "dense"), BadRecipe, "a view and a weight above 0"),
        (("--hybrid", "--weights", "dense=0"), BadRecipe, "a view and a weight above 0"),
        (("--hybrid", "--weights", "dense=nan"), BadRecipe, "a view and a weight above 0"),
        (("--hybrid", "--weights", "dense=1,dense=2"), BadRecipe, "names dense twice"),
        (("--weights", "dense=1"), BadRecipe, "give --hybrid too"),
        (("--view", "dense", "--hybrid"), BadRecipe, "one of the two"),
        (("--hybrid", "--explain"), BadModel, "name one with --view"),
        (("--hybrid", "--model", "x"), BadRecipe, "names one model, but 3 views"),
    ):
        with pytest.raises(error, match=message):
            call("search", built, QUESTION, *options)
    for options in ((), ("--hybrid",)):
        with pytest.raises(BadFolder, match=r"idxx does not exist; did you mean .*idx\?"):
            call("search", built.with_name("idxx"), QUESTION, *options)


def test_views_of_different_documents_are_not_searched_together(built, models, tmp_path):
    """Two processes can build the first two views at once; then neither sees the other."""
    copy = shutil.copytree(built, tmp_path / "idx")
    shutil.rmtree(copy / "views" / "dense")
    corpus = write_texts(tmp_path / "corpus.jsonl", TEXTS[:7])
    call("index", models / "dense", corpus, "-o", copy / "views" / "dense")
    with pytest.raises(BadFolder, match="different documents .*dense: 7, late: 20, sparse: 20"):
        call("search", copy, QUESTION, "--hybrid")
