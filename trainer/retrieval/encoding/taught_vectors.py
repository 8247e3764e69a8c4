"""Vectors of the training texts by a teacher: encoded once, stored, and looked up per batch.

`trainer.retrieval.encoding.taught_files` describes the files.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from trainer.batch import Batch, Texts, identity
from trainer.collectives import MAX, all_reduce_integers, on_first_rank
from trainer.data.rows import Row
from trainer.errors import BadData, BadFolder
from trainer.models.contracts.text import Role
from trainer.models.encoder import VectorEncoder
from trainer.retrieval.encoding.encode import encode
from trainer.retrieval.encoding.needed_vectors import (
    ROLES,
    Identities,
    NeededVectors,
    TextSource,
    distinct_texts,
    names_of,
    needed_vectors,
)
from trainer.retrieval.encoding.taught_files import (
    TEXTS_AT_ONCE,
    TaughtFiles,
    check_unaltered,
    stored_content,
    write_content,
)
from trainer.storage.atomic import folder_state, move_if_free, move_into_place, partial_folder
from trainer.vectors.vectors import Vectors


@dataclass(frozen=True, slots=True)
class TaughtVectors:
    """The stored embeddings of texts, found by the identity of the text."""

    names: Identities
    vectors: dict[Role, Vectors]

    @classmethod
    def open(cls, folder: Path, kind: type[Vectors]) -> "TaughtVectors":
        """Returns the embeddings in `folder`, memory-mapped.

        Raises BadFolder when files are missing or damaged, or hold another kind of vectors.
        """
        if stored_content(folder)["tokens"] != (kind.UNIT == "token"):
            raise BadFolder(
                f"{folder} holds vectors of another kind of model, which does not give one vector"
                f" per {kind.UNIT}; remove the folder, and the vectors are computed again"
            )
        try:
            names = {
                role: np.load(folder / f"{role}-names.npy", mmap_mode="r", allow_pickle=False)
                for role in ROLES
            }
            return cls(names, {role: kind.load(folder, role) for role in ROLES})
        except (OSError, ValueError) as error:
            raise BadFolder(
                f"{folder} is incomplete ({error}); remove it, and its vectors are computed again"
            ) from error

    def embeddings(
        self, batch: Batch
    ) -> tuple[Float[Tensor, "query ..."], Float[Tensor, "document ..."]]:
        """Returns the embeddings of a batch's queries and documents.

        Token vectors are padded with rows of zeros. Raises BadData for a text without a vector.
        """
        return self._embeddings(batch.queries, "query"), self._embeddings(
            batch.documents, "document"
        )

    def count_differences(self, role: Role, names: Int64[np.ndarray, " text"]) -> tuple[int, int]:
        """Returns the number of texts without a vector, and of vectors without such a text."""
        return int((~np.isin(names, self.names[role])).sum()), int(
            (~np.isin(self.names[role], names)).sum()
        )

    def _embeddings(self, texts: Texts, role: Role) -> Float[Tensor, "text ..."]:
        identities, names = texts.identities.cpu().numpy(), self.names[role]
        places = np.searchsorted(names, identities).clip(max=len(names) - 1)
        if missing := int((names[places] != identities).sum()):
            raise BadData(
                f"the teacher has not encoded {missing} of {len(identities)} texts of a batch;"
                " start the run again"
            )
        vectors = torch.from_numpy(self.vectors[role].select(places).to_padded())
        if not vectors.isfinite().all():
            raise BadData(
                "the stored vectors of the teacher are not finite; remove their folder, and they"
                " are computed again"
            )
        return vectors


def taught_vectors(
    folder: Path,
    teacher: VectorEncoder,
    rows: Iterable[Row],
    negatives_per_query: int,
    micro_batch_tokens: int | None = None,
    say: Callable[[str], None] = lambda text: None,
    replace: bool = False,
    further_documents: TextSource = tuple,
) -> TaughtVectors:
    """Returns the teacher's embeddings of the training texts; encodes those not in `folder`.

    The texts are all queries, positives and first `negatives_per_query` negatives of `rows`, and
    `further_documents`. `say` is told what is encoded. All ranks encode together; the first rank
    writes. If another run has written `folder` meanwhile, its vectors are used.

    The teacher computes in float32 on every machine; token vectors are stored in float16. Raises
    BadFolder when `folder` holds the vectors of another teacher or of other data, unless `replace`
    is true: then they are computed again. Raises BadFolder when it holds something else.
    """
    texts: dict[Role, Callable[[], Iterator[str]]] = {
        role: partial(distinct_texts, rows, role, negatives_per_query, further_documents)
        for role in ROLES
    }
    requirement = needed_vectors(teacher, names_of(rows, negatives_per_query, further_documents))
    state_before = on_first_rank(lambda: folder_state(folder))
    is_incomplete, is_extended = all_reduce_integers(
        list(on_first_rank(lambda: to_do(folder, requirement, replace, say)) or (0, 0)), MAX
    )
    if is_incomplete:
        _encode_texts(
            folder,
            teacher,
            texts,
            TaughtVectors.open(folder, teacher.vectors) if is_extended else None,
            micro_batch_tokens,
            say,
            lambda partial_path: _publish(partial_path, folder, state_before, requirement, say),
        )
    return TaughtVectors.open(folder, teacher.vectors)


def to_do(
    folder: Path, requirement: NeededVectors, replace: bool, say: Callable[[str], None]
) -> tuple[int, int]:
    """Returns whether texts must be encoded (1 or 0), and whether `folder` keeps its vectors.

    `say` is told what must be encoded. Raises BadFolder when `folder` holds other vectors and
    `replace` is false.
    """
    texts = sum(map(len, requirement.names.values()))
    if not folder.exists():
        say(f"the teacher encodes {texts:,} training texts, once; kept in {folder}")
        return 1, 0
    missing, change = _compare(folder, requirement)
    if not missing:
        return 0, 0
    if change is None:
        say(
            f"the teacher encodes {missing:,} new texts in addition to the {texts - missing:,} in"
            f" {folder}"
        )
        return 1, 1
    if not replace:
        raise BadFolder(
            f"{folder} was made of {change}. Nothing was changed; use the former teacher and data,"
            " or set another `output`, or start with --replace to encode everything again"
        )
    say(f"{folder} was made of {change}; the teacher encodes all {texts:,} training texts again")
    return 1, 0


def _compare(folder: Path, requirement: NeededVectors) -> tuple[int, str | None]:
    """Returns how many of these texts have no vector in `folder`, and what has changed otherwise.

    The change is None when texts were only added. Raises BadFolder when `folder` holds no vectors.
    """
    content, names = stored_content(folder), requirement.names
    texts = sum(map(len, names.values()))
    if content["fingerprint"] == requirement.content["fingerprint"]:
        check_unaltered(folder)
        stored_vectors = TaughtVectors.open(folder, requirement.kind)
        counts = {role: stored_vectors.count_differences(role, names[role]) for role in ROLES}
        missing, superfluous = (sum(numbers) for numbers in zip(*counts.values(), strict=True))
        differences = " and ".join(
            f"{new:,} new and {old:,} removed as {role}" for role, (new, old) in counts.items()
        )
        return missing, (
            f"other data: since then {differences}, of {texts:,} texts"
            if missing and superfluous
            else None
        )
    old_contract, contract = content.get("contract") or {}, requirement.content["contract"]
    fields = [
        f"{name} was {old_contract.get(name)!r:.80}, is {contract[name]!r:.80}"
        for name in contract
        if old_contract and old_contract.get(name) != contract[name]
    ]
    weights = (
        "its weights have changed" if old_contract else "its weights or its contract have changed"
    )
    return texts, f"another teacher: {'; '.join(fields) or weights}"


def _encode_texts(
    folder: Path,
    teacher: VectorEncoder,
    all_texts: dict[Role, Callable[[], Iterator[str]]],
    old: TaughtVectors | None,
    micro_batch_tokens: int | None,
    say: Callable[[str], None],
    finish: Callable[[Path], None],
) -> None:
    """Encodes the texts without a stored vector, writes all vectors, and calls `finish`."""
    partial_path: Path | None = on_first_rank(lambda: partial_folder(folder))
    try:
        for role in ROLES:
            old_texts = None if old is None else (old.names[role], old.vectors[role])
            files: Any = on_first_rank(partial(TaughtFiles, partial_path, role, teacher, old_texts))  # type: ignore[arg-type]
            old_identities = set() if old is None else set(old.names[role].tolist())
            for texts in _slices(
                text for text in all_texts[role]() if identity(text) not in old_identities
            ):
                vectors = teacher.for_search(encode(teacher, texts, role, micro_batch_tokens))
                on_first_rank(lambda: files.append(texts, vectors))  # noqa: B023
                say(f"{len(texts):,} texts encoded by the teacher, as {role}")
            on_first_rank(lambda: files.finish())  # noqa: B023, PLW0108 - `files` is None on the other ranks
        on_first_rank(lambda: finish(partial_path))  # type: ignore[arg-type]
    finally:
        if partial_path is not None:
            shutil.rmtree(partial_path, ignore_errors=True)


def _publish(
    partial_path: Path,
    folder: Path,
    state_before: tuple[int, int, int] | None,
    requirement: NeededVectors,
    say: Callable[[str], None],
) -> None:
    """Moves the new vectors to `folder`, if that is still in the state that it had at the start.

    If another run has written `folder` since, its vectors are used. Raises BadFolder when they do
    not fit.
    """
    write_content(partial_path, requirement.content)
    if state_before is not None and folder_state(folder) == state_before:
        move_into_place(partial_path, folder)
        return
    if move_if_free(partial_path, folder):
        return
    missing, change = _compare(folder, requirement)
    if missing:
        raise BadFolder(
            f"another run wrote {folder} while this one encoded, of"
            f" {change or f'fewer texts: {missing:,} are missing'}. Nothing of it was changed;"
            " start again once that run has ended, or set another `output`"
        )
    say(f"another run has written {folder} meanwhile, of the same teacher and texts; it is used")


def _slices(texts: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(texts)
    while texts := list(islice(rest, TEXTS_AT_ONCE)):
        yield texts
