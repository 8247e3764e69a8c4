"""What a teacher makes of the training texts: kept once, found by text, refused when teacher or
data are others.
"""

import multiprocessing
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from encoded import encode
from ranks import on_ranks
from toy_models import SENTENCES, masked_lm

from trainer.batch import Batch
from trainer.data.rows import Row
from trainer.errors import BadData, BadFolder
from trainer.models.dense import DenseSettings, build_dense_encoder, read_encoder
from trainer.models.late_interaction import LateInteractionSettings, build_late_interaction_encoder
from trainer.models.sparse import SparseSettings, build_sparse_encoder
from trainer.retrieval.encoding.needed_vectors import teacher_fingerprint
from trainer.retrieval.encoding.taught_files import FILE
from trainer.retrieval.encoding.taught_vectors import TaughtVectors, taught_vectors
from trainer.vectors.dense import DenseVectors

ROWS = [
    Row("a disk", SENTENCES[0], (SENTENCES[1], "another machine", "left out")),
    Row("an account", SENTENCES[1], (SENTENCES[0], SENTENCES[2], "left out")),
    Row("a disk", "Remove it.", ("a disk", SENTENCES[3], "left out")),
]
QUERIES = ["a disk", "an account", "a disk"]
DOCUMENTS = [text for row in ROWS for text in (row.positive, *row.negatives[:2])]


def batch_of(encoder):
    """The rows as a student with another tokenizer than the teacher's has them."""
    return Batch(
        encoder.tokenize(QUERIES, "query"),
        encoder.tokenize(DOCUMENTS, "document"),
        torch.zeros(3, 1, dtype=torch.long),
    )


def files_of(folder):
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


def other_weights(toy_folder):
    other = read_encoder(str(toy_folder("bert")))
    with torch.no_grad():
        next(other.parameters())[5, 0] += 1
    return other


@pytest.fixture(scope="module")
def teacher(toy_folder):
    return read_encoder(str(toy_folder("bert")))


@pytest.fixture(scope="module")
def late_teacher(toy_folder):
    torch.manual_seed(1)
    return build_late_interaction_encoder(
        LateInteractionSettings(
            backbone=str(toy_folder("bert")), projection_dimensions=8, lora=None
        )
    ).eval()


@pytest.fixture(scope="module")
def student(toy_folder):
    return build_dense_encoder(DenseSettings(backbone=str(toy_folder("roberta"))))


def test_batch_gets_the_vectors_of_its_own_texts(teacher, student, tmp_path):
    queries, documents = taught_vectors(tmp_path / "t", teacher, ROWS, 2).embeddings(
        batch_of(student)
    )
    assert torch.equal(queries, torch.from_numpy(encode(teacher, QUERIES, "query")))
    assert torch.allclose(
        documents, torch.from_numpy(encode(teacher, DOCUMENTS, "document")), atol=1e-6
    )
    assert (documents[0] - documents[1]).norm() > 0.1


def test_token_vectors_keep_their_lengths(late_teacher, student, tmp_path):
    queries, documents = taught_vectors(tmp_path / "t", late_teacher, ROWS, 2).embeddings(
        batch_of(student)
    )
    with torch.no_grad():
        wanted = late_teacher(late_teacher.tokenize(DOCUMENTS, "document"))
    for found, one in zip(documents, wanted, strict=True):
        assert torch.allclose(found[found.any(-1)], one[one.any(-1)], atol=1e-3), "kept in float16"
    assert len({int(each.any(-1).sum()) for each in documents}) > 2
    assert queries.shape[:2] == (3, 32), "queries are filled up with mask tokens"


def test_sparse_vectors_have_the_whole_vocabulary(toy_folder, student, tmp_path):
    settings = SparseSettings(backbone=str(masked_lm(toy_folder("bert"))), lora=None)
    sparse_teacher = build_sparse_encoder(settings).eval()
    folder = tmp_path / "t"
    taught_vectors(folder, sparse_teacher, ROWS[:1], 1)
    taught = taught_vectors(folder, sparse_teacher, ROWS, 2)
    for found, texts, role in zip(
        taught.embeddings(batch_of(student)),
        (QUERIES, DOCUMENTS),
        ("query", "document"),
        strict=True,
    ):
        with torch.no_grad():
            wanted = sparse_teacher(sparse_teacher.tokenize(texts, role))
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    assert taught.vectors["query"].rows.shape[1] == 2, "kept as terms"


class TestWhatIsThere:
    def test_cache_is_used_again_even_for_fewer_texts(self, teacher, tmp_path):
        said = []
        taught_vectors(tmp_path / "t", teacher, ROWS, 2, say=said.append)
        made = (tmp_path / "t" / "query-vectors.npy").stat().st_mtime_ns
        assert any("encodes 9 training texts, once" in text for text in said), said
        said.clear()
        taught_vectors(tmp_path / "t", teacher, ROWS[:2], 1, say=said.append)
        assert said == []
        assert (tmp_path / "t" / "query-vectors.npy").stat().st_mtime_ns == made

    def test_cache_of_another_teacher_is_refused_and_kept(self, teacher, tmp_path, toy_folder):
        taught_vectors(tmp_path / "t", teacher, ROWS, 2)
        before = files_of(tmp_path / "t")
        with pytest.raises(BadFolder, match="another teacher: its weights have changed") as refused:
            taught_vectors(tmp_path / "t", other_weights(toy_folder), ROWS, 2)
        assert "--replace" in str(refused.value)
        assert refused.value.exit_code == 2
        prompted = build_dense_encoder(
            DenseSettings(backbone=str(toy_folder("bert")), query_prompt="q: ", lora=None)
        ).eval()
        with pytest.raises(BadFolder, match="query_prompt was '', is 'q: '"):
            taught_vectors(tmp_path / "t", prompted, ROWS, 2)
        assert files_of(tmp_path / "t") == before

    def test_cache_of_another_teacher_is_replaced_on_request(
        self, teacher, tmp_path, toy_folder, student
    ):
        taught_vectors(tmp_path / "t", teacher, ROWS, 2)
        other, said = other_weights(toy_folder), []
        found = taught_vectors(tmp_path / "t", other, ROWS, 2, say=said.append, replace=True)
        assert "another teacher" in said[0]
        assert teacher_fingerprint(other) in (tmp_path / "t" / FILE).read_text()
        assert torch.equal(
            found.embeddings(batch_of(student))[0],
            torch.from_numpy(encode(other, QUERIES, "query")),
        )
        assert [path.name for path in tmp_path.iterdir()] == ["t"]

    def test_valid_cache_is_not_replaced(self, teacher, tmp_path):
        taught_vectors(tmp_path / "t", teacher, ROWS, 2)
        before = files_of(tmp_path / "t")
        taught_vectors(tmp_path / "t", teacher, ROWS, 2, replace=True)
        assert files_of(tmp_path / "t") == before

    def test_cache_of_other_data_is_refused_or_replaced_on_request(
        self, teacher, tmp_path, student
    ):
        taught_vectors(tmp_path / "t", teacher, [*ROWS[:2], Row("a query", "gone")], 2)
        before = files_of(tmp_path / "t")
        with pytest.raises(
            BadFolder,
            match=(
                "other data: since then 0 new and 1 removed as query and 3 new and 1"
                " removed as document,"
                " of 9 texts"
            ),
        ):
            taught_vectors(tmp_path / "t", teacher, ROWS, 2)
        assert files_of(tmp_path / "t") == before
        taught_vectors(tmp_path / "t", teacher, ROWS, 2, replace=True).embeddings(batch_of(student))

    @pytest.mark.parametrize("late", [False, True])
    def test_new_texts_are_added_to_the_cache(self, teacher, late_teacher, late, tmp_path, student):
        used = late_teacher if late else teacher
        taught_vectors(tmp_path / "t", used, ROWS[:2], 2)
        said = []
        found = taught_vectors(tmp_path / "t", used, ROWS, 2, say=said.append)
        assert "3 new texts in addition to the 6" in said[0]
        assert said[1:] == ["3 texts encoded by the teacher, as document"]
        whole = taught_vectors(tmp_path / "whole", used, ROWS, 2)
        for one, other in zip(
            found.embeddings(batch_of(student)), whole.embeddings(batch_of(student)), strict=True
        ):
            assert torch.allclose(one, other, atol=1e-3 if late else 1e-6)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["t", "whole"]

    def test_foreign_folder_is_not_changed(self, teacher, tmp_path):
        (tmp_path / "t").mkdir()
        (tmp_path / "t" / "thesis.txt").write_text("mine")
        with pytest.raises(BadFolder, match="holds something else"):
            taught_vectors(tmp_path / "t", teacher, ROWS, 2)
        assert (tmp_path / "t" / "thesis.txt").read_text() == "mine"

    def test_incomplete_cache_is_refused(self, teacher, tmp_path):
        taught_vectors(tmp_path / "t", teacher, ROWS, 2)
        (tmp_path / "t" / "document-names.npy").unlink()
        with pytest.raises(BadFolder, match="is incomplete"):
            TaughtVectors.open(tmp_path / "t", DenseVectors)


def meanwhile(action):
    """What is said goes into `.said`; once all is encoded, and not yet in its place, `action`
    happens, as if another run had done it.
    """

    def say(text):
        said.append(text)
        if text.endswith("as document"):
            action()

    say.said = said = []
    return say


def in_a_process(folder, model, both_are_ready, answers):
    torch.set_num_threads(1)
    say = meanwhile(both_are_ready.wait)
    found = taught_vectors(folder, read_encoder(model), ROWS, 2, say=say)
    answers.put(
        (say.said[-1], {role: np.array(found.vectors[role]) for role in ("query", "document")})
    )


class TestMadeByAnotherRunMeanwhile:
    def test_simultaneous_runs_use_the_cache_of_the_first(self, teacher, toy_folder, tmp_path):
        context = multiprocessing.get_context("spawn")
        ready, answers = context.Barrier(2, timeout=120), context.Queue()
        processes = [
            context.Process(
                target=in_a_process, args=(tmp_path / "t", str(toy_folder("bert")), ready, answers)
            )
            for _ in range(2)
        ]
        for process in processes:
            process.start()
        last_words, vectors = zip(*[answers.get(timeout=120) for _ in processes], strict=True)
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [0, 0]
        assert ["it is used" in words for words in sorted(last_words, key=len)] == [False, True]
        alone = taught_vectors(tmp_path / "t", teacher, ROWS, 2, say=pytest.fail)
        assert all(
            np.array_equal(of_run[role], alone.vectors[role])
            for of_run in vectors
            for role in of_run
        )
        assert [path.name for path in tmp_path.iterdir()] == ["t"], "nothing unfinished is left"

    @pytest.mark.parametrize("before", [None, ROWS[:2]])
    def test_cache_with_more_texts_is_used(self, teacher, student, tmp_path, before):
        if before is not None:
            taught_vectors(tmp_path / "t", teacher, before, 2)
        more = [*ROWS, Row("a query", "more")]
        say = meanwhile(lambda: taught_vectors(tmp_path / "t", teacher, more, 2))
        found = taught_vectors(tmp_path / "t", teacher, ROWS, 2, say=say)
        assert "meanwhile, of the same teacher and texts; it is used" in say.said[-1]
        assert len(found.names["document"]) == 8, "the other run's"
        assert torch.allclose(
            found.embeddings(batch_of(student))[0],
            torch.from_numpy(encode(teacher, QUERIES, "query")),
            atol=1e-6,
        )

    @pytest.mark.parametrize("replace", [False, True])
    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            (
                None,
                ("while this one encoded, of another teacher: its weights have changed"),
            ),
            (ROWS[:2], "of fewer texts: 3 are missing"),
            (
                [*ROWS[:2], Row("a query", "gone")],
                (
                    "of other data: since then 0 new and 1 removed as query and 3 new and 1 removed"
                    " as document"
                ),
            ),
        ],
    )
    def test_cache_of_another_teacher_is_refused_and_kept(
        self, teacher, toy_folder, tmp_path, rows, message, replace
    ):
        made = {}

        def other():
            taught_vectors(
                tmp_path / "t",
                other_weights(toy_folder) if rows is None else teacher,
                rows or ROWS,
                2,
                replace=True,
            )
            made.update(files_of(tmp_path / "t"))

        if replace:
            taught_vectors(tmp_path / "t", other_weights(toy_folder), ROWS[:1], 2)
        with pytest.raises(BadFolder, match=message) as refused:
            taught_vectors(tmp_path / "t", teacher, ROWS, 2, say=meanwhile(other), replace=replace)
        assert refused.value.exit_code == 2
        assert files_of(tmp_path / "t") == made
        assert [path.name for path in tmp_path.iterdir()] == ["t"]

    def test_incomplete_or_foreign_folder_is_refused(self, teacher, tmp_path):
        taught_vectors(tmp_path / "whole", teacher, ROWS, 2)
        (tmp_path / "whole" / "document-vectors.npy").unlink()
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.txt").write_text("mine")
        for name, message in (("whole", "npy is missing"), ("mine", "holds something else")):
            there = tmp_path / f"at-{name}"
            with pytest.raises(BadFolder, match=message):
                taught_vectors(
                    there, teacher, ROWS, 2, say=meanwhile(partial((tmp_path / name).rename, there))
                )
        assert (tmp_path / "at-mine" / "thesis.txt").read_text() == "mine"

    def test_cache_that_was_removed_is_made(self, teacher, student, tmp_path):
        taught_vectors(tmp_path / "t", teacher, ROWS[:2], 2)
        taught_vectors(
            tmp_path / "t", teacher, ROWS, 2, say=meanwhile(lambda: shutil.rmtree(tmp_path / "t"))
        ).embeddings(batch_of(student))


def test_text_that_the_teacher_has_not_encoded_is_an_error(teacher, student, tmp_path):
    found = taught_vectors(tmp_path / "t", teacher, ROWS[:1], 2)
    with pytest.raises(BadData, match="has not encoded 1 of 3 texts"):
        found.embeddings(batch_of(student))


def on_a_rank(folder, teacher):
    torch.set_num_threads(1)
    found = taught_vectors(folder, teacher, ROWS, 2, micro_batch_tokens=24)
    return {
        role: (np.array(found.names[role]), np.array(found.vectors[role]))
        for role in ("query", "document")
    }


def test_ranks_share_the_work_and_get_the_same_vectors(teacher, tmp_path):
    alone = taught_vectors(tmp_path / "alone", teacher, ROWS, 2, micro_batch_tokens=24)
    taught_vectors(tmp_path / "grown", teacher, ROWS[:2], 2)
    for of_rank in [
        found
        for name in ("together", "grown")
        for found in on_ranks(2, on_a_rank, tmp_path / name, teacher)
    ]:
        for role in ("query", "document"):
            assert np.array_equal(of_rank[role][0], alone.names[role])
            assert np.allclose(of_rank[role][1], alone.vectors[role], atol=1e-6)
    assert not list(tmp_path.glob(".*partial")), "nothing unfinished is left"
