"""A late-interaction model whose vectors were computed before, so that an index can be built many
times without encoding the corpus again.
"""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from trainer.models.encoder import VectorEncoder
from trainer.vectors.tokens import TokenVectors


class StoredVectors(VectorEncoder):
    """Returns the vectors in `path` for each document; a document is known by its position in
    `texts`. Queries are encoded by `encoder`.
    """

    vectors = TokenVectors

    def __init__(self, path: Path, texts: Sequence[str], probe: str, encoder: Any) -> None:
        torch.nn.Module.__init__(self)
        self.encoder, self.role = encoder, "document"
        with np.load(path, allow_pickle=False) as arrays:
            self.stored = TokenVectors(arrays["vectors"], arrays["offsets"])
        self.rows = {text: row for row, text in enumerate(texts)}
        self.rows.setdefault(
            probe, int(self.stored.lengths.argmin())
        )  # what an index keeps of it is small
        self.contract = SimpleNamespace(dimensions=self.dimensions, document_max_length_tokens=180)

    device = torch.device("cpu")

    @property
    def dimensions(self) -> int:
        return self.stored.rows.shape[1]

    def tokenize(self, texts: Sequence[str], role: str) -> Any:
        from trainer.batch import Texts

        self.role = role
        if role == "query":
            return self.encoder.tokenize(texts, role)
        rows = [self.rows[text] for text in texts]
        return Texts.of([[0] * int(self.stored.lengths[row]) for row in rows], rows)

    def forward(self, texts: Any) -> torch.Tensor:
        if self.role == "query":
            return self.encoder(texts)  # type: ignore[no-any-return]
        return torch.from_numpy(self.stored.select(texts.identities.numpy()).to_padded())

    def vectors_per_text(self, role: str, mean_tokens: float) -> float:
        return mean_tokens

    def write_pipeline(self, folder: Path) -> None:
        raise NotImplementedError("it is never saved")
