"""Changes of an index of token vectors: documents are added and deleted."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from trainer.batch import identity
from trainer.data.readers.corpus import Document
from trainer.errors import BadData
from trainer.retrieval.encoding.encode import Encoding
from trainer.retrieval.indexes.stored_documents import check_known, check_new, write_documents
from trainer.retrieval.token_index.build import with_effort, write_vectors
from trainer.retrieval.token_index.codes import Codec
from trainer.retrieval.token_index.compress import centroid_count, compress_segment
from trainer.retrieval.token_index.growing_array import GrowingArray
from trainer.retrieval.token_index.index import TokenIndex
from trainer.retrieval.token_index.manifest import (
    Segment,
    TokenManifest,
    changing,
)
from trainer.retrieval.token_index.segment import OpenSegment
from trainer.storage.atomic import write_array
from trainer.vectors.ragged import document_ranges, offsets_of, tokens_of

_TOKENS_AT_ONCE = 1 << 18
_MOST_GROWTH = 4
"""An index may grow until a new one would have this many times its centroids."""
_WORSE, _BAD = 3, 0.25
"""The largest squared error of added documents, relative to the first ones and absolute; vectors
have length 1.
"""
_REMEASURE_GROWTH = 1.5
"""The effort is measured again when an index has grown by this factor."""


def add(
    index: Path,
    encoding: Encoding,
    documents: Iterable[Document],
    replace: bool = False,
    one_segment: bool = False,
) -> TokenManifest:
    """Adds documents to an index, and returns its new manifest.

    If the process is killed, the index is unchanged. New documents use the existing centroids; if
    they are of another kind, build the index again instead. Raises BadData when an id is already
    there (with `replace`, its document is deleted), the centroids are too few, or the error of the
    codes is too large. Raises BadModel when the encoder is not that of the index. `one_segment`
    merges all segments.
    """
    with changing(index) as manifest:
        token_index = TokenIndex.open(index)
        token_index.fit_encoder(encoding.encoder)
        known_ids: set[int] = set()
        for old_segment in [] if replace else token_index.segments:
            known_ids.update(identity(document_id) for _, document_id in live_ids(old_segment))
        number = manifest.changes + 1
        documents_on_disk = write_documents(
            check_new(documents, known_ids, index),
            index / f"documents-{number}.jsonl",
            index / f"offsets-{number}.npy",
        )
        segment = write_vectors(index, number, documents_on_disk, encoding, manifest.pool_factor)
        if token_index.codec is not None:
            _check_growth(index, token_index.codec, token_index.tokens + segment.tokens)
            _check_error(index, compress_segment(index, segment, token_index.codec), manifest)
        replaced_ids = set(documents_on_disk.ids()) if replace else set()
        segments, _ = _segments_without(index, token_index, replaced_ids, number)
        segments.append(token_index.segment(segment))
        return _apply_change(index, token_index, segments, number, encoding, one_segment)


def delete(index: Path, ids: Iterable[str], one_segment: bool = False) -> TokenManifest:
    """Deletes documents by their ids, and returns the new manifest. `one_segment` merges all
    segments.

    Raises BadData, and deletes nothing, when an id is not in the index.
    """
    with changing(index) as manifest:
        token_index = TokenIndex.open(index)
        number = manifest.changes + 1
        segments, missing_ids = _segments_without(index, token_index, ids, number)
        check_known(missing_ids, index)
        return _apply_change(index, token_index, segments, number, one_segment=one_segment)


def _segments_without(
    index: Path, token_index: TokenIndex, ids: Iterable[str], number: int
) -> tuple[list[OpenSegment], set[str]]:
    """Returns the segments without the documents of these ids, and the ids of no document."""
    missing_ids = set(ids)
    segments = []
    for segment in token_index.segments:
        rows = [row for row, document_id in live_ids(segment) if document_id in missing_ids]
        missing_ids -= {segment.documents[row].id for row in rows}
        segments.append(
            token_index.segment(_delete_rows(index, segment, rows, number)) if rows else segment
        )
    return segments, missing_ids


def _apply_change(
    index: Path,
    token_index: TokenIndex,
    segments: list[OpenSegment],
    number: int,
    encoding: Encoding | None = None,
    one_segment: bool = False,
) -> TokenManifest:
    """Writes the manifest of these segments, after merging the last ones if that is useful, or all.

    `encoding` is given when documents were added.
    """
    merges_all = one_segment and any(segment.live for segment in segments)
    first = 0 if merges_all else _first_to_merge(segments)
    if first is not None:
        number += 1
        segments[first:] = [token_index.segment(_merge(index, number, segments[first:]))]
    new_manifest = token_index.manifest.model_copy(
        update={"changes": number, "segments": tuple(segment.segment for segment in segments)}
    ).with_file_records(index)
    measured_tokens = new_manifest.approximate.get("tokens", 0)
    if (
        encoding is not None
        and new_manifest.kind == "compressed"
        and not measured_tokens / _REMEASURE_GROWTH
        <= new_manifest.tokens
        <= measured_tokens * _REMEASURE_GROWTH
    ):
        new_manifest = with_effort(
            index, new_manifest, encoding, new_manifest.approximate.get("squared_error")
        )
    new_manifest.write(index)
    return new_manifest


def _first_to_merge(segments: list[OpenSegment]) -> int | None:
    """Returns the first of the segments to merge, or None.

    After merging, each segment is more than twice as large as all later ones together. So there are
    few segments, and each document is written few times. At most half of the documents of a segment
    are deleted.
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


def _merge(folder: Path, number: int, segments: list[OpenSegment]) -> Segment:
    """Writes a new segment with the remaining documents of others."""
    rows_per_segment = [segment.live_rows for segment in segments]
    documents = (
        segment.documents[row]
        for segment, rows in zip(segments, rows_per_segment, strict=True)
        for row in rows.tolist()
    )
    documents_on_disk = write_documents(
        documents, folder / f"documents-{number}.jsonl", folder / f"offsets-{number}.npy"
    )
    lengths = np.concatenate(
        [
            np.diff(segment.offsets)[rows]
            for segment, rows in zip(segments, rows_per_segment, strict=True)
        ]
    )
    write_array(folder / f"lengths-{number}.npy", lengths.astype(np.uint32))
    for part in segments[0].parts:
        array = getattr(segments[0], part)
        with GrowingArray(
            folder / f"{part}-{number}.npy", array.dtype.type, *array.shape[1:]
        ) as file:
            for segment, rows in zip(segments, rows_per_segment, strict=True):
                for first, last in document_ranges(
                    offsets_of(np.diff(segment.offsets)[rows]), _TOKENS_AT_ONCE
                ):
                    places = (
                        rows[first:last]
                        if part == "means"
                        else tokens_of(segment.offsets, rows[first:last])
                    )
                    file.append(getattr(segment, part)[places])
    return Segment(number=number, documents=len(documents_on_disk), tokens=int(lengths.sum()))


def _check_growth(index: Path, codec: Codec, tokens: int) -> None:
    if centroid_count(tokens) > _MOST_GROWTH * len(codec.centroids):
        raise BadData(
            f"{index} was built for far fewer documents: it has {len(codec.centroids)} centroids,"
            f" but {tokens:,} token vectors need {centroid_count(tokens)}, so searches would miss"
            " most of them; nothing was added: build it again from all documents with `nearfar"
            " index --replace`"
        )


def _check_error(index: Path, error: float, manifest: TokenManifest) -> None:
    first_error = manifest.approximate.get("squared_error", 0.0)
    if error > max(_WORSE * first_error, _BAD):
        raise BadData(
            f"{index} was built from too few documents, or from others: the codes learned from them"
            f" give these back with a squared error of {error:.2f} instead of {first_error:.2f}, so"
            " searches would miss them; nothing was added: build it again from all documents with"
            " `nearfar index --replace`"
        )


def live_ids(segment: OpenSegment) -> Iterator[tuple[int, str]]:
    """Returns row and id of every document of a segment that is not deleted."""
    return (
        (row, document_id)
        for row, document_id in enumerate(segment.documents.ids())
        if not segment.is_deleted[row]
    )


def _delete_rows(index: Path, segment: OpenSegment, rows: list[int], number: int) -> Segment:
    deleted_rows = np.union1d(np.flatnonzero(segment.is_deleted), np.array(rows, dtype=np.int64))
    new_segment = segment.segment.model_copy(
        update={"deleted": len(deleted_rows), "deleted_in": number}
    )
    write_array(index / new_segment.deleted_file, deleted_rows.astype(np.int64))
    return new_segment
