"""An index of token vectors made, and changed: documents added and deleted, each time wholly or not
at all.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from trainer.batch import identity
from trainer.errors import BadData
from trainer.progress import phase
from trainer.retrieval.corpus import Document
from trainer.retrieval.encoding.encode import Encoding, document_blocks
from trainer.retrieval.indexes.place import new_index
from trainer.retrieval.indexes.stored_documents import StoredDocuments, write_documents
from trainer.retrieval.token_index.codes import Codec
from trainer.retrieval.token_index.compress import centroid_count, compress_segment, train_codec
from trainer.retrieval.token_index.effort import measured_effort
from trainer.retrieval.token_index.growing_array import GrowingArray
from trainer.retrieval.token_index.index import TokenIndex, probe_vectors
from trainer.retrieval.token_index.manifest import (
    Bits,
    Segment,
    TokenIndexKind,
    TokenManifest,
    changing,
)
from trainer.retrieval.token_index.pooling import merge_similar_tokens
from trainer.retrieval.token_index.segment import OpenSegment
from trainer.vectors.ragged import document_ranges, offsets_of, tokens_of
from trainer.vectors.tokens import TokenVectors

_TOKENS_AT_ONCE = 1 << 18
_MOST_GROWTH = 4
"""An index may grow until one built anew would have so many times its centroids."""
_WORSE, _BAD = 3, 0.25
"""Added documents may be coded with so many times the squared error of the first ones, or with this
error; vectors have length 1.
"""
_GROWN = 1.5
"""How hard to look is measured again when an index has grown by this."""


def build_token_index(
    encoding: Encoding,
    model_name: str,
    documents: Iterable[Document],
    folder: Path,
    kind: TokenIndexKind = "compressed",
    bits: Bits = 2,
    pool_factor: int = 1,
    replace: bool = False,
    layers: int | None = None,
) -> TokenManifest:
    """Writes the index of `documents` into `folder`, whole or not at all, in bounded memory;
    returns its manifest.

    `exact` keeps every vector in float16; `compressed` takes `bits` bits a number, everything a
    search needs counted, and meanwhile the space of the exact one. With `pool_factor` f a document
    keeps one vector in f. `layers` says that the encoder is the first so many layers of the model
    of that name. Raises BadFolder when `folder` holds something (with `replace`: something other
    than an index), BadData when there is no document, or one that no search could find.
    """
    with new_index(Path(folder), replace) as partial:
        np.save(partial / "probe.npy", probe_vectors(encoding.encoder), allow_pickle=False)
        texts, offsets = partial / "documents-1.jsonl", partial / "offsets-1.npy"
        stored = write_documents(documents, texts, offsets)
        segment = _write_vectors(partial, 1, stored, encoding, pool_factor)
        if kind == "compressed":
            codec = train_codec(partial, segment, bits)
            codec.save(partial)
            error = compress_segment(partial, segment, codec)
        manifest = TokenManifest(
            model=model_name,
            layers=layers,
            kind=kind,
            dimensions=encoding.encoder.dimensions,
            bits=bits if kind == "compressed" else None,
            pool_factor=pool_factor,
            changes=1,
            approximate={},
            segments=(segment,),
            files={},
        ).described(partial)
        if kind == "compressed":
            manifest = _with_effort(partial, manifest, encoding, error)
        manifest.write(partial)
        return manifest


def add(index: Path, encoding: Encoding, documents: Iterable[Document]) -> TokenManifest:
    """Adds documents to an index; returns its new manifest. A process killed meanwhile leaves the
    index as it was.

    They are coded by the centroids that are there: where they are of another kind than those
    before, build anew instead. Raises BadData when an id is there already, the centroids are far
    too few for so many documents, or the codes do not give their vectors back; BadModel when the
    encoder is not the one of the index.
    """
    with changing(index) as manifest:
        opened = TokenIndex.open(index)
        opened.fit_encoder(encoding.encoder)
        there = {identity(id) for segment in opened.segments for _, id in live_ids(segment)}
        number = manifest.changes + 1
        stored = write_documents(
            _new(documents, there, index),
            index / f"documents-{number}.jsonl",
            index / f"offsets-{number}.npy",
        )
        segment = _write_vectors(index, number, stored, encoding, manifest.pool_factor)
        if opened.codec is not None:
            _check_growth(index, opened.codec, opened.tokens + segment.tokens)
            _check_error(index, compress_segment(index, segment, opened.codec), manifest)
        return _changed(
            index, opened, [*opened.segments, opened.segment(segment)], number, encoding
        )


def delete(index: Path, ids: Iterable[str]) -> TokenManifest:
    """Takes documents out of an index by their ids; returns its new manifest. Raises BadData when
    one is not there, and deletes none then.
    """
    with changing(index) as manifest:
        opened = TokenIndex.open(index)
        missing = set(ids)
        number = manifest.changes + 1
        segments = []
        for segment in opened.segments:
            rows = [row for row, id in live_ids(segment) if id in missing]
            missing -= {segment.documents[row].id for row in rows}
            segments.append(
                opened.segment(_without(index, segment, rows, number)) if rows else segment
            )
        if missing:
            raise BadData(
                f"{index} has no document {', '.join(map(repr, sorted(missing)[:5]))}; nothing was"
                " deleted: leave it out, or see ids with `nearfar search`"
            )
        return _changed(index, opened, segments, number)


def _changed(
    index: Path,
    opened: TokenIndex,
    segments: list[OpenSegment],
    number: int,
    encoding: Encoding | None = None,
) -> TokenManifest:
    """Writes the manifest of these segments, the last of them put together where that leaves fewer.
    With `encoding`, documents have come.
    """
    first = _first_to_merge(segments)
    if first is not None:
        number += 1
        segments[first:] = [opened.segment(_merged(index, number, segments[first:]))]
    changed = opened.manifest.model_copy(
        update={"changes": number, "segments": tuple(segment.segment for segment in segments)}
    ).described(index)
    measured = changed.approximate.get("tokens", 0)
    if (
        encoding is not None
        and changed.kind == "compressed"
        and not measured / _GROWN <= changed.tokens <= measured * _GROWN
    ):
        changed = _with_effort(index, changed, encoding, changed.approximate.get("squared_error"))
    changed.write(index)
    return changed


def _first_to_merge(segments: list[OpenSegment]) -> int | None:
    """From which segment on all become one; None: none.

    Each that is left is then more than twice as large as all behind it, so that they are few
    however often documents come and each document is written few times, and at most half of its
    documents are deleted ones.
    """
    first, documents = len(segments) - 1, segments[-1].live
    while first and segments[first - 1].live <= 2 * documents:
        first -= 1
        documents += segments[first].live
    thin = [
        place
        for place, segment in enumerate(segments)
        if 2 * segment.live < segment.segment.documents
    ]
    first = min([first, *thin])
    as_it_is = first == len(segments) - 1 and not thin
    return None if as_it_is or not any(segment.live for segment in segments[first:]) else first


def _merged(folder: Path, number: int, segments: list[OpenSegment]) -> Segment:
    """A new segment of all that was not deleted of others."""
    there = [segment.live_rows for segment in segments]
    documents = (
        segment.documents[row]
        for segment, rows in zip(segments, there, strict=True)
        for row in rows.tolist()
    )
    stored = write_documents(
        documents, folder / f"documents-{number}.jsonl", folder / f"offsets-{number}.npy"
    )
    lengths = np.concatenate(
        [np.diff(segment.offsets)[rows] for segment, rows in zip(segments, there, strict=True)]
    )
    np.save(folder / f"lengths-{number}.npy", lengths.astype(np.uint32), allow_pickle=False)
    for part in segments[0].parts:
        whole = getattr(segments[0], part)
        with GrowingArray(
            folder / f"{part}-{number}.npy", whole.dtype.type, *whole.shape[1:]
        ) as file:
            for segment, rows in zip(segments, there, strict=True):
                for first, last in document_ranges(
                    offsets_of(np.diff(segment.offsets)[rows]), _TOKENS_AT_ONCE
                ):
                    places = (
                        rows[first:last]
                        if part == "means"
                        else tokens_of(segment.offsets, rows[first:last])
                    )
                    file.append(getattr(segment, part)[places])
    return Segment(number=number, documents=len(stored), tokens=int(lengths.sum()))


def _with_effort(
    folder: Path, manifest: TokenManifest, encoding: Encoding, error: float | None
) -> TokenManifest:
    with phase("measuring how many candidates a search needs"):
        found = measured_effort(TokenIndex(folder, manifest), encoding.encoder)
    found |= {"tokens": float(manifest.tokens)}
    return manifest.model_copy(
        update={"approximate": found if error is None else found | {"squared_error": error}}
    )


def _check_growth(index: Path, codec: Codec, tokens: int) -> None:
    if centroid_count(tokens) > _MOST_GROWTH * len(codec.centroids):
        raise BadData(
            f"{index} was built for far fewer documents: {len(codec.centroids)} centroids, and"
            f" {tokens:,} token vectors want {centroid_count(tokens)}, so searches would miss most"
            " of them; nothing was added: build it anew from all documents with `nearfar index"
            " --replace`"
        )


def _check_error(index: Path, error: float, manifest: TokenManifest) -> None:
    before = manifest.approximate.get("squared_error", 0.0)
    if error > max(_WORSE * before, _BAD):
        raise BadData(
            f"{index} was built from too few documents, or from others: the codes learned from them"
            f" give these back with a squared error of {error:.2f} instead of {before:.2f}, so"
            " searches would miss them; nothing was added: build it anew from all documents with"
            " `nearfar index --replace`"
        )


def live_ids(segment: OpenSegment) -> Iterator[tuple[int, str]]:
    """Row and id of every document of a segment that was not deleted."""
    return ((row, id) for row, id in enumerate(segment.documents.ids()) if not segment.deleted[row])


def _without(index: Path, segment: OpenSegment, rows: list[int], number: int) -> Segment:
    gone = np.union1d(np.flatnonzero(segment.deleted), np.array(rows, dtype=np.int64))
    changed = segment.segment.model_copy(update={"deleted": len(gone), "deleted_in": number})
    np.save(index / changed.deleted_file, gone.astype(np.int64), allow_pickle=False)
    return changed


def _new(documents: Iterable[Document], there: set[int], index: Path) -> Iterator[Document]:
    for document in documents:
        if identity(document.id) in there:
            raise BadData(
                f"{index} already has a document {document.id!r}; nothing was added: delete it"
                " first, or give the new one another id (a field `_id`; where there is none the"
                " line's number is the id, and `--id-prefix` makes it another)"
            )
        there.add(identity(document.id))
        yield document


def _write_vectors(
    folder: Path, number: int, stored: StoredDocuments, encoding: Encoding, pool_factor: int
) -> Segment:
    """Encodes the documents of a new segment into its float16 file of vectors."""
    lengths = []
    with GrowingArray(
        folder / f"vectors-{number}.npy", np.float16, encoding.encoder.dimensions
    ) as vectors:
        for block in document_blocks(encoding, stored):
            tokens = block.vectors
            assert isinstance(tokens, TokenVectors)
            pooled = merge_similar_tokens(tokens, pool_factor)
            vectors.append(pooled.rows)
            lengths.append(pooled.lengths)
    np.save(
        folder / f"lengths-{number}.npy",
        np.concatenate(lengths).astype(np.uint32),
        allow_pickle=False,
    )
    return Segment(number=number, documents=len(stored), tokens=vectors.rows)
