"""Writes a data set that is known by name into a BEIR folder."""

import json
from pathlib import Path
from typing import Any

from trainer.data.prepare.azure_cli import azure_cli_set
from trainer.data.prepare.azure_cli_wheel import check_wheel, download_wheel
from trainer.data.prepare.beir import HUB_SETS, fetch_beir
from trainer.data.prepare.beir_folder import write_beir_folder
from trainer.data.readers.beir import MARKER
from trainer.errors import BadData, BadFolder


def prepared_source(folder: Path) -> dict[str, Any] | None:
    """Returns the content of `source.json` (name, version, counts), or None without a complete
    folder.
    """
    marker = folder / MARKER
    return json.loads(marker.read_text(encoding="utf-8")) if marker.is_file() else None


def prepare(name: str, folder: Path = Path("data"), wheel: Path | None = None) -> Path:
    """Writes the data set `name` into the BEIR folder `folder / name`, which is returned.

    A complete folder is kept. Raises BadData for an unknown name or a source that cannot be
    reached, and BadFolder if something else has the folder's name.
    """
    if name != "azure-cli" and name not in HUB_SETS:
        raise BadData(
            f"{name!r} is not a data set that can be prepared; choose one of:"
            f" {', '.join(('azure-cli', *HUB_SETS))}."
        )
    target = Path(folder) / name
    if prepared_source(target):
        return target
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise BadFolder(
            f"{target} exists but has no {MARKER}, so it was not made by this command; move it"
            " away or choose another folder."
        )
    if name == "azure-cli":
        if wheel:
            check_wheel(wheel)
        else:
            wheel = download_wheel(Path(folder) / ".downloads")
        return write_beir_folder(target, azure_cli_set(wheel))
    return write_beir_folder(target, fetch_beir(name))
