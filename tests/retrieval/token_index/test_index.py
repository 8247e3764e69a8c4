"""Whole folders: built, searched, added to, deleted from."""

import errno
import json
import os
import random
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from late_interaction_toys import toy_late_interaction
from phases import when_encoded
from verbs import change_manifest

from trainer.data.readers.corpus import Document
from trainer.errors import BadData, BadFolder, BadModel
from trainer.retrieval.encoding.encode import Encoding, encode
from trainer.retrieval.indexes import manifest, place
from trainer.retrieval.indexes.dense import DenseIndex
from trainer.retrieval.indexes.manifest import MANIFEST
from trainer.retrieval.indexes.searcher import hits
from trainer.retrieval.token_index import build as late_build
from trainer.retrieval.token_index import change as late_change
from trainer.retrieval.token_index import effort as late_effort
from trainer.retrieval.token_index import index as late_index
from trainer.retrieval.token_index.build import build_token_index
from trainer.retrieval.token_index.change import add, delete
from trainer.retrieval.token_index.codes import Codec
from trainer.retrieval.token_index.index import TokenIndex
from trainer.storage.atomic import move_into_place
from trainer.storage.locks import exclusive
from trainer.vectors.vectors import nearest_documents

KINDS = ("exact", "compressed")
WORDS = [
    "disk",
    "account",
    "query",
    "machine",
    "virtual",
    "database",
    "region",
    "storage",
    "show",
    "list",
    "delete",
    "create",
]
QUESTIONS = ["delete a virtual machine", "show the disk", "every database of the region"]
CHOICE = random.Random(5)
DOCUMENTS = [
    Document(
        f"d{row}", "title" * (row % 2), " ".join(CHOICE.choices(WORDS, k=CHOICE.randint(2, 30)))
    )
    for row in range(300)
]
NEW = [
    Document("new1", "", "delete a virtual machine"),
    Document("new2", "", "show storage account"),
]


@pytest.fixture(scope="module")
def encoder(toy_folder):
    return toy_late_interaction(str(toy_folder("bert")))


@pytest.fixture(scope="module")
def built(encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("late")
    for kind in KINDS:
        build_token_index(Encoding(encoder), "toy", iter(DOCUMENTS), folder / kind, kind)
    return folder


@pytest.fixture(params=KINDS)
def copy(request, built, tmp_path):
    return shutil.copytree(built / request.param, tmp_path / "index")


def questions(encoder):
    return encode(encoder, QUESTIONS, "query").to_padded()


def ids(index, encoder, k=10):
    """What each question finds."""
    _, rows = index.search(questions(encoder), k)
    return [[index.document(row).id for row in of_query if row >= 0] for of_query in rows.tolist()]


def test_exact_index_equals_an_exhaustive_search(encoder, built):
    index = TokenIndex.open(built / "exact")
    scores, rows = index.search(questions(encoder), 10)
    tokens = encode(encoder, [document.full_text for document in DOCUMENTS], "document")
    every, order = nearest_documents(encode(encoder, QUESTIONS, "query"), tokens, 300)
    np.testing.assert_allclose(scores, every[:, :10], atol=4e-3)  # float16
    by_row = np.take_along_axis(every, order.argsort(1), 1)
    np.testing.assert_allclose(
        np.take_along_axis(by_row, rows, 1), scores, atol=4e-3
    )  # of the documents that it says, not only as large
    assert index.manifest.count == 300
    assert index.document(17) == DOCUMENTS[17]


def test_compressed_index_finds_most_and_is_much_smaller(encoder, built):
    exact, index = TokenIndex.open(built / "exact"), TokenIndex.open(built / "compressed")
    scores, _ = index.search(questions(encoder), 10)
    wanted, _ = exact.search(questions(encoder), 10)
    np.testing.assert_allclose(scores, wanted, atol=0.1)
    every, order = exact.search(questions(encoder), 300)
    exactly = np.take_along_axis(every, order.argsort(1), 1)  # by row
    of_found = np.take_along_axis(exactly, index.search(questions(encoder), 10)[1], 1)
    lost, at_random = wanted.mean() - of_found.mean(), wanted.mean() - exactly.mean()
    assert lost < 0.2 * at_random
    assert index.manifest.search_bytes < exact.manifest.search_bytes / 4


def test_search_effort_is_measured_or_set_by_hand(encoder, built):
    index = TokenIndex.open(built / "compressed")
    assert index.manifest.approximate["share_of_best_10"] >= late_effort.TARGET_SHARE
    assert late_effort.measure_effort(index, encoder).items() <= index.manifest.approximate.items()
    everything, _ = index.search(questions(encoder), 10, 10_000, 10_000)
    usual, _ = index.search(questions(encoder), 10)
    hasty, _ = index.search(questions(encoder), 10, 1, 1)
    assert everything.mean() >= usual.mean() >= hasty.mean()
    assert everything.mean() > hasty.mean()
    assert (TokenIndex.open(built / "exact").manifest.approximate, index.probes) == (
        {},
        late_effort.PROBES,
    )


def test_added_documents_are_found_beside_the_former_ones(encoder, copy):
    before = ids(TokenIndex.open(copy), encoder, 400)
    manifest = add(copy, Encoding(encoder), iter(NEW))
    index = TokenIndex.open(copy)
    assert manifest == index.manifest
    assert index.manifest.count == 302
    after = ids(index, encoder, 400)
    assert after[0][0] == "new1"
    assert all(len(found) == 302 for found in after)
    assert [[id for id in found if id not in ("new1", "new2")] for found in after] == before


def test_existing_id_is_refused_and_nothing_changes(encoder, copy):
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    with pytest.raises(BadData, match=r"already has a document 'd7'.*give --replace"):
        add(copy, Encoding(encoder), iter([*NEW, DOCUMENTS[7]]))
    with pytest.raises(BadData, match="'new1'"):
        add(copy, Encoding(encoder), iter([*NEW, NEW[0]]))
    with pytest.raises(
        BadData, match="no document 'nobody'.*nothing was deleted: leave it out, or see ids with"
    ):
        delete(copy, ["d7", "nobody"])
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before


def test_deleted_document_is_not_found_and_may_be_added_again(encoder, copy):
    best = ids(TokenIndex.open(copy), encoder, 2)[0]
    assert delete(copy, best).count == 298
    index = TokenIndex.open(copy)
    found = ids(index, encoder, 400)
    assert all(len(each) == 298 and not set(best) & set(each) for each in found)
    add(copy, Encoding(encoder), iter([DOCUMENTS[int(best[0][1:])]]))
    assert ids(TokenIndex.open(copy), encoder, 1)[0] == best[:1]
    assert delete(copy, [best[0], "d0" if best[0] != "d0" else "d1"]).count == 297
    assert best[0] not in ids(TokenIndex.open(copy), encoder, 400)[0]


def test_replaced_document_has_its_new_text_alone(encoder, copy):
    new_document = Document("d7", "", "a sentence that no other document has")
    manifest = add(copy, Encoding(encoder), [*NEW, new_document], replace=True)
    index = TokenIndex.open(copy)
    documents = [index.document(row) for row in index.live_rows().tolist()]
    assert documents == [*DOCUMENTS[:7], *DOCUMENTS[8:], *NEW, new_document]
    assert manifest.count == len(DOCUMENTS) + len(NEW)


def test_all_documents_may_be_deleted(encoder, copy):
    delete(copy, [document.id for document in DOCUMENTS])
    index = TokenIndex.open(copy)
    assert index.manifest.count == 0
    assert hits(index, encoder, QUESTIONS[:1], 3) == [[]]
    add(copy, Encoding(encoder), iter(NEW))
    (best,) = hits(TokenIndex.open(copy), encoder, QUESTIONS[:1], 3)
    assert [hit.document.id for hit in best] == ["new1", "new2"]


def test_open_index_keeps_its_documents_during_changes(encoder, copy):
    index = TokenIndex.open(copy)
    before = ids(index, encoder)
    delete(copy, before[0][:3])
    assert ids(index, encoder) == before


def test_open_index_keeps_its_documents_when_it_is_replaced(encoder, copy):
    index = TokenIndex.open(copy)
    build_token_index(
        Encoding(encoder),
        "toy",
        iter([Document("else", "", "of the same length as an old one")] * 5),
        copy,
        replace=True,
    )
    assert index.document(3) == DOCUMENTS[3]
    index.fit_encoder(encoder)
    assert TokenIndex.open(copy).document(0).id == "else"


def test_file_exchanged_after_the_check_of_its_existence_is_handled(encoder, copy, monkeypatch):
    delete(copy, ["d1"])
    fingerprint, others = manifest._fingerprint, ["d2"]

    def deleting(path):
        if path.name.startswith("deleted-") and others:
            delete(copy, [others.pop()])
        return fingerprint(path)

    monkeypatch.setattr(manifest, "_fingerprint", deleting)
    assert TokenIndex.open(copy).manifest.count == 298


@pytest.mark.parametrize("times", [1, 1000])
def test_index_is_opened_in_a_consistent_state(
    encoder, toy_folder, built, tmp_path, monkeypatch, times
):
    """Another takes its place between two files: of a model trained anew, so that all sizes are the
    same.
    """
    folder, other = shutil.copytree(built / "compressed", tmp_path / "index"), tmp_path / "other"
    trained = toy_late_interaction(str(toy_folder("bert")))
    torch.nn.init.orthogonal_(trained.projection.weight, generator=torch.Generator().manual_seed(1))
    build_token_index(Encoding(trained), "trained", iter(DOCUMENTS), other)
    load, exchanged = Codec.load, []

    def exchanging(of, dimensions):
        codec = load(of, dimensions)
        if len(exchanged) < times:
            exchanged.append(move_into_place(other, folder))
        return codec

    monkeypatch.setattr(Codec, "load", exchanging)
    if times > 1:
        with pytest.raises(BadFolder, match="changed .* each of the 10 times"):
            TokenIndex.open(folder)
        return
    index = TokenIndex.open(folder)
    index.fit_encoder(trained)
    np.testing.assert_array_equal(index.codec.centroids, load(folder, 16).centroids)


def test_too_many_open_files_are_reported_as_such(copy):
    free = os.dup(0)
    os.close(free)
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    refused = []
    try:
        for more in range(50):
            resource.setrlimit(resource.RLIMIT_NOFILE, (free + more, allowed[1]))
            try:
                TokenIndex.open(copy)
                break
            except BadFolder as error:
                refused.append(str(error))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, allowed)
    assert len(refused) > 3
    assert all(
        "too many files are open" in said and "ulimit -n" in said and "build" not in said
        for said in refused
    )


def test_index_replaced_while_it_is_changed_is_not_damaged(encoder, copy):
    """Either of the two is refused, and the other's work is whole."""
    refused = []

    def replace():
        with pytest.raises(BadFolder, match="being changed by another process"):
            build_token_index(Encoding(encoder), "toy", iter(DOCUMENTS[:3]), copy, replace=True)
        refused.append(True)

    with when_encoded(replace):
        assert add(copy, Encoding(encoder), iter(NEW)).count == 302
    assert refused
    assert TokenIndex.open(copy).manifest.count == 302

    def change():
        changed.append(True)
        add(copy, Encoding(encoder), iter([Document("late", "", "a disk")]))

    changed = []
    with when_encoded(change):
        built_again = build_token_index(
            Encoding(encoder), "toy", iter(DOCUMENTS[:3]), copy, replace=True
        )
    assert changed
    assert built_again.count == 3
    assert TokenIndex.open(copy).manifest.count == 3


def test_files_added_during_a_build_are_kept(encoder, tmp_path):
    def put():
        (tmp_path / "index").mkdir()
        (tmp_path / "index" / "thesis.txt").write_text("mine")

    with pytest.raises(BadFolder, match="is not empty"), when_encoded(put):
        build_token_index(Encoding(encoder), "toy", iter(NEW), tmp_path / "index")
    assert (tmp_path / "index" / "thesis.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


@pytest.mark.parametrize("name", ["index", "index[1]"])
def test_files_of_a_killed_build_are_removed_and_no_others(encoder, tmp_path, name):
    kept = {
        f".{name}.89abcdef.partial",
        f".{name}.v2.01234567.partial",
        f".{name}.mine.partial",
        ".index1.01234567.partial",
    }
    for left in (*kept, f".{name}.01234567.partial"):
        (tmp_path / left).mkdir()
    with exclusive(tmp_path / f".{name}.89abcdef.partial"):
        build_token_index(Encoding(encoder), "toy", iter(NEW), tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == kept | {name}


def test_build_whose_folder_was_removed_says_so(encoder, tmp_path, monkeypatch):
    """Between making it and locking it."""
    make = place.partial_folder

    def making(folder):
        partial = make(folder)
        monkeypatch.setattr(place, "partial_folder", make)
        build_token_index(Encoding(encoder), "toy", iter(NEW), folder)
        return partial

    monkeypatch.setattr(place, "partial_folder", making)
    with pytest.raises(BadFolder, match=r"partial was removed in the meantime.*try again"):
        build_token_index(Encoding(encoder), "toy", iter(DOCUMENTS[:3]), tmp_path / "index")
    assert TokenIndex.open(tmp_path / "index").manifest.count == 2


def test_disk_without_locks_is_reported_as_such(encoder, copy, monkeypatch):
    def flock(handle, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(
        BadFolder, match=r"cannot be locked against other processes \(No locks available\)"
    ):
        delete(copy, ["d1"])


def test_working_directory_is_refused_before_encoding(encoder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with (
        pytest.raises(BadFolder, match="choose a folder inside it"),
        when_encoded(lambda: pytest.fail("it was encoded")),
    ):
        build_token_index(Encoding(encoder), "toy", iter(NEW), Path())


def test_index_much_smaller_than_the_addition_is_refused(encoder, tmp_path):
    folder = tmp_path / "index"
    build_token_index(Encoding(encoder), "toy", iter(DOCUMENTS[:4]), folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(BadData, match=r"fewer documents: it has 1 centroids.*nothing was added"):
        add(folder, Encoding(encoder), iter(DOCUMENTS[4:]))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_codes_that_do_not_fit_the_addition_are_refused(encoder, copy, monkeypatch):
    """As of an index built from a document or two, whose codes stand for nothing else."""
    manifest = TokenIndex.open(copy).manifest
    if manifest.kind == "exact":
        assert "squared_error" not in manifest.approximate
        return
    assert 0 < manifest.approximate["squared_error"] < 0.1
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    decode = Codec.decode
    monkeypatch.setattr(
        Codec, "decode", lambda self, codes, lengths: -decode(self, codes, lengths)
    )  # as wrong as can be
    with pytest.raises(
        BadData, match=r"too few documents, or from others.*squared error.*nothing was added"
    ):
        add(copy, Encoding(encoder), iter(NEW))
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before


def test_documents_added_one_by_one_are_found_in_few_segments(encoder, tmp_path):
    """Each search opens the files of all segments, so that they must not be as many as the
    additions.
    """
    for kind in KINDS:
        folder = tmp_path / kind
        build_token_index(Encoding(encoder), "toy", iter(DOCUMENTS[:100]), folder, kind)
        for document in DOCUMENTS[100:125]:
            manifest = add(folder, Encoding(encoder), iter([document]))
            assert len(manifest.segments) <= 1 + 5
        assert manifest.count == 125
        assert [
            manifest.segments[0].documents,
            sum(segment.documents for segment in manifest.segments),
        ] == [100, 125]
        assert {path.name for path in folder.iterdir()} == manifest.needed_files() | {MANIFEST}
    whole = tmp_path / "whole"
    build_token_index(Encoding(encoder), "toy", iter(DOCUMENTS[:125]), whole, "exact")
    assert ids(TokenIndex.open(tmp_path / "exact"), encoder) == ids(TokenIndex.open(whole), encoder)
    index = TokenIndex.open(tmp_path / "compressed")
    everything = {index.document(row).id for row in index.live_rows().tolist()}
    assert everything == {document.id for document in DOCUMENTS[:125]}


def test_documents_exchanged_repeatedly_are_found(encoder, copy):
    """What was deleted counts no longer, and does not stay on disk."""
    wanted, size = ids(TokenIndex.open(copy), encoder), TokenIndex.open(copy).manifest.search_bytes
    for _ in range(6):
        delete(copy, [document.id for document in DOCUMENTS])
        assert ids(TokenIndex.open(copy), encoder) == [[]] * 3
        manifest = add(copy, Encoding(encoder), iter(DOCUMENTS))
    assert (len(manifest.segments), manifest.count, manifest.segments[0].deleted) == (1, 300, 0)
    assert manifest.search_bytes <= size * 1.01
    assert ids(TokenIndex.open(copy), encoder) == wanted


def test_index_with_more_than_half_deleted_is_rewritten(encoder, copy):
    delete(copy, [document.id for document in DOCUMENTS[:150]])
    assert TokenIndex.open(copy).manifest.segments[0].documents == 300
    manifest = delete(copy, ["d150"])
    assert [(segment.documents, segment.deleted) for segment in manifest.segments] == [(149, 0)]
    assert {path.name for path in copy.iterdir()} == manifest.needed_files() | {MANIFEST}
    index = TokenIndex.open(copy)
    assert [index.document(row) for row in index.live_rows().tolist()] == DOCUMENTS[151:]


def test_search_effort_is_measured_again_when_the_index_has_grown(encoder, tmp_path, monkeypatch):
    folder, measured = tmp_path / "index", []
    build_token_index(Encoding(encoder), "toy", iter(DOCUMENTS[:100]), folder)
    monkeypatch.setattr(
        late_build,
        "measure_effort",
        lambda index, encoder: (
            measured.append(index.manifest.count) or {"probes": 3.0, "candidates": 9.0}
        ),
    )
    kept = add(folder, Encoding(encoder), iter(NEW)).approximate
    assert (measured, kept["candidates"]) == ([], late_effort.MIN_CANDIDATES)
    assert add(folder, Encoding(encoder), iter(DOCUMENTS[100:200])).approximate["candidates"] == 9
    assert measured == [202]


def test_candidates_are_decoded_in_blocks(encoder, built, monkeypatch):
    index, asked, sizes = TokenIndex.open(built / "compressed"), questions(encoder), []
    wanted = index.search(asked, 10)
    decode = Codec.decode
    monkeypatch.setattr(
        Codec,
        "decode",
        lambda self, codes, lengths: sizes.append(len(codes.ids)) or decode(self, codes, lengths),
    )
    monkeypatch.setattr(late_index, "_TOKENS_AT_ONCE", 100)
    for mine, its in zip(index.search(asked, 10), wanted, strict=True):
        np.testing.assert_array_equal(mine, its)
    assert max(sizes) <= 100
    assert len(sizes) > 10


def test_queries_find_the_same_together_and_alone(encoder, copy):
    index = TokenIndex.open(copy)
    together, alone = (
        hits(index, encoder, QUESTIONS, 5),
        [hits(index, encoder, [question], 5)[0] for question in QUESTIONS],
    )
    assert [[hit.document for hit in found] for found in together] == [
        [hit.document for hit in found] for found in alone
    ]
    np.testing.assert_allclose(
        [[hit.score for hit in found] for found in together],
        [[hit.score for hit in found] for found in alone],
        rtol=1e-5,
    )
    assert hits(index, encoder, [], 5) == []


def test_empty_list_of_queries_finds_nothing(built):
    for kind in KINDS:
        index = TokenIndex.open(built / kind)
        scores, rows = index.search(np.zeros((0, 4, index.manifest.dimensions), np.float32), 5)
        assert scores.shape == rows.shape == (0, 5)


def test_query_without_a_scored_token_is_refused(encoder, copy):
    index = TokenIndex.open(copy)
    queries = np.tile(questions(encoder), (30, 1, 1))
    queries[69] = 0
    with pytest.raises(BadData, match="query 70 of 90 has no token"):
        index.search(queries, 3)
    with pytest.raises(BadData, match=r"the query '\.\.\.!' has no token"):
        hits(index, encoder, [*QUESTIONS, "...!", QUESTIONS[0]], 3)
    with pytest.raises(BadData, match=r"the query '(\.){80}…' has no token"):
        hits(index, encoder, ["." * 1000], 3)


def test_other_model_is_refused(encoder, toy_folder, copy):
    index = TokenIndex.open(copy)
    index.fit_encoder(encoder)
    with pytest.raises(BadModel, match=r"other vectors.*search with toy"):
        index.fit_encoder(toy_late_interaction(str(toy_folder("distilbert"))))
    with pytest.raises(BadModel, match="vectors with 8 dimensions"):
        index.fit_encoder(toy_late_interaction(str(toy_folder("bert")), 8))
    with pytest.raises(BadModel, match="vectors of 5 numbers"):
        index.search(np.ones((1, 2, 5), np.float32), 3)
    with pytest.raises(BadModel, match="other vectors"):
        add(copy, Encoding(toy_late_interaction(str(toy_folder("distilbert")))), iter(NEW))


def test_index_of_one_family_names_the_other(encoder, built):
    with pytest.raises(BadFolder, match="token vectors"):
        DenseIndex.open(built / "exact")


@pytest.mark.parametrize("damage", ["cut", "altered", "missing"])
def test_damaged_files_are_named(encoder, copy, damage):
    add(copy, Encoding(encoder), iter(NEW))
    delete(copy, ["new2"])
    for name in sorted(path.name for path in copy.iterdir() if path.name != MANIFEST):
        path = copy / name
        whole = path.read_bytes()
        if damage == "missing":
            path.unlink()
        else:
            path.write_bytes(whole[:-1] if damage == "cut" else whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(BadFolder, match=rf"{name} (has|was|is)"):
            TokenIndex.open(copy)
        path.write_bytes(whole)
    TokenIndex.open(copy)


def test_id_beyond_the_centroids_is_noticed_outside_the_checked_samples(
    encoder, built, tmp_path, monkeypatch
):
    """With four blocks of 64 bytes, every file here counts as large."""
    folder = shutil.copytree(built / "compressed", tmp_path / "index")
    names = TokenIndex.open(folder).manifest.files
    monkeypatch.setattr("trainer.storage.manifest._BLOCK", 64)
    monkeypatch.setattr("trainer.storage.manifest._BLOCKS", 4)
    change_manifest(
        folder,
        files={
            name: record.model_dump()
            for name, record in manifest.describe_files(folder, names).items()
        },
    )
    whole = bytearray((folder / "ids-1.npy").read_bytes())
    whole[2000:2002] = b"\xff\xff"
    (folder / "ids-1.npy").write_bytes(whole)
    with pytest.raises(BadFolder, match=r"ids-1\.npy was altered: it names centroid 65535 of \d+"):
        TokenIndex.open(folder).search(questions(encoder), 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format 2"),
        ({"kind": "fuzzy"}, "one vector per document"),
        ({"dimensions": 0}, "damaged"),
        ({"files": {"../../etc/passwd": {"bytes": 1, "sha256": ""}}}, "lists other files"),
        ({"loader": "os.system"}, "damaged"),
        ({"segments": [{"number": 1, "documents": 299, "tokens": 5000}]}, "the manifest says"),
        ({"segments": []}, "damaged.*segments.*at least 1"),
        (
            {"segments": [{"number": 1, "documents": 300, "tokens": 5000, "deleted": 5}]},
            "damaged.*5 of them deleted by change None",
        ),
        (
            {"segments": [{"number": 1, "documents": 300, "tokens": 5000, "deleted_in": 2}]},
            "damaged.*0 of them deleted by change 2",
        ),
        (
            {
                "segments": [
                    {"number": 1, "documents": 300, "tokens": 5000, "deleted": 301, "deleted_in": 2}
                ]
            },
            "damaged.*301 of them deleted",
        ),
    ],
)
def test_contradicting_manifest_is_refused(copy, change, message):
    change_manifest(copy, **change)
    with pytest.raises(BadFolder, match=message):
        TokenIndex.open(copy)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "does not say probes"),
        ({"probes": 16.0}, "does not say candidates"),
        ({"probes": -3.0, "candidates": 256.0}, "says -3 for probes"),
        ({"probes": 16.0, "candidates": 1e300}, r"says 1e\+300 for candidates"),
        ({"probes": 1.5, "candidates": 256.0}, "says 1.5 for probes"),
        ({"probes": float("nan"), "candidates": 256.0}, "damaged .NaN is not a number"),
    ],
)
def test_manifest_without_a_search_effort_is_refused(built, tmp_path, settings, message):
    folder = shutil.copytree(built / "compressed", tmp_path / "index")
    change_manifest(folder, approximate=settings)
    with pytest.raises(BadFolder, match=f"{message}.*build the index again"):
        TokenIndex.open(folder)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("bits", 4),
        ("pool_factor", 3),
        ("model", "another"),
        ("approximate", {"probes": 1.0, "candidates": 1.0}),
    ],
)
def test_changed_manifest_is_refused(built, tmp_path, field, value):
    """Also where what it says then could be true."""
    folder = shutil.copytree(built / "compressed", tmp_path / "index")
    content = json.loads((folder / MANIFEST).read_text())
    assert content[field] != value
    (folder / MANIFEST).write_text(json.dumps(content | {field: value}))
    with pytest.raises(BadFolder, match=r"manifest\.json was altered since the index was built"):
        TokenIndex.open(folder)


def test_existing_folder_is_replaced_only_if_it_is_an_index(encoder, copy):
    with pytest.raises(BadFolder, match="--replace"):
        build_token_index(Encoding(encoder), "toy", iter(NEW), copy)
    add(copy, Encoding(encoder), iter(NEW))
    assert build_token_index(Encoding(encoder), "toy", iter(NEW), copy, replace=True).count == 2
    assert TokenIndex.open(copy).manifest.count == 2
    (copy / "notes.txt").write_text("mine")
    with pytest.raises(BadFolder, match="something other"):
        build_token_index(Encoding(encoder), "toy", iter(NEW), copy, replace=True)


def test_document_without_a_scored_token_stops_the_build_and_leaves_no_files(encoder, tmp_path):
    with pytest.raises(BadData, match="'dots' has no token"):
        build_token_index(
            Encoding(encoder), "toy", iter([*NEW, Document("dots", "", "...")]), tmp_path / "index"
        )
    with pytest.raises(BadData, match="no document"):
        build_token_index(Encoding(encoder), "toy", iter([]), tmp_path / "index")
    assert list(tmp_path.iterdir()) == []


def test_pooling_keeps_one_of_n_vectors(encoder, built, tmp_path):
    manifest = build_token_index(
        Encoding(encoder), "toy", iter(DOCUMENTS), tmp_path / "index", "exact", pool_factor=2
    )
    whole = TokenIndex.open(built / "exact")
    assert manifest.tokens == sum(
        -(-length // 2) for length in np.diff(whole.segments[0].offsets).tolist()
    )
    added = add(tmp_path / "index", Encoding(encoder), iter(NEW))
    assert added.segments[1].tokens < sum(
        encode(encoder, [document.full_text for document in NEW], "document").lengths
    )


def test_block_size_changes_nothing(encoder, built, tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.retrieval.encoding.encode._MOST_DOCUMENTS", 7)
    monkeypatch.setattr(late_change, "_TOKENS_AT_ONCE", 100)
    for kind in KINDS:
        build_token_index(Encoding(encoder), "toy", iter(DOCUMENTS), tmp_path / kind, kind)
        some, others = TokenIndex.open(tmp_path / kind), TokenIndex.open(built / kind)
        assert some.manifest.segments == others.manifest.segments
        np.testing.assert_allclose(
            some.search(questions(encoder), 10)[0],
            others.search(questions(encoder), 10)[0],
            atol=5e-3 if kind == "exact" else 0.03,
        )
