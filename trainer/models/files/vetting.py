"""Checks a model folder before any library opens it.

A model folder may come from anybody. Weights are read only from safetensors, and only after a check
of the header. Links out of the folder are refused. Keys of a configuration that could load code are
removed. No other module opens files of foreign models.
"""

import json
import math
import re
from pathlib import Path
from typing import Any

from jaxtyping import Shaped
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from trainer.errors import BadModel

LARGEST_JSON_BYTES = 4 * 2**20
LARGEST_HEADER_BYTES = 4 * 2**20
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,120}")
_ITEM_BYTES = {
    "F64": 8,
    "I64": 8,
    "U64": 8,
    "F32": 4,
    "I32": 4,
    "U32": 4,
    "F16": 2,
    "BF16": 2,
    "I16": 2,
    "U16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
_LOADS_CODE = re.compile(
    r"auto_map|trust_remote_code|_?attn_implementation\w*|_?experts_implementation\w*|use_kernels|kernel_config|custom_pipelines"
)
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".msgpack")


def inside(folder: Path, name: str) -> Path:
    """Returns `folder / name` after a check that the file lies in `folder`.

    A link to the `blobs` of the hub cache is allowed. Raises BadModel.
    """
    if not _PLAIN_NAME.fullmatch(name) or ".." in name:
        raise BadModel(
            f"{folder} refers to {name!r}, which is not a plain name inside that folder; such a"
            " folder is not opened"
        )
    return _not_leading_out(folder, folder / name)


def check_links(folder: Path) -> None:
    """Raises BadModel when a file in `folder` or one folder below is a link out of `folder`."""
    for entry in [*folder.glob("*"), *folder.glob("*/*")]:
        if entry.is_symlink():
            _not_leading_out(folder, entry)


def _not_leading_out(folder: Path, path: Path) -> Path:
    # A snapshot of the hub cache links to `blobs` of the same model.
    snapshots = [
        holder.parent for holder in (folder, folder.parent) if holder.parent.name == "snapshots"
    ]
    roots = [folder.resolve(), *((holder.parent / "blobs").resolve() for holder in snapshots)]
    target = path.resolve()
    if not any(target.is_relative_to(root) for root in roots):
        raise BadModel(
            f"{path} is a link that leads out of {folder}; copy the file itself into the folder if"
            " you trust it"
        )
    return path


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """Returns the JSON object in a small file of `folder`."""
    content = _parse_json(inside(folder, name))
    if not isinstance(content, dict):
        raise BadModel(
            f"{folder / name} holds a {type(content).__name__} where an object was expected"
        )
    return content


def read_json_list(folder: Path, name: str) -> list[Any]:
    """Returns the JSON list in a small file of `folder`."""
    content = _parse_json(inside(folder, name))
    if not isinstance(content, list):
        raise BadModel(
            f"{folder / name} holds a {type(content).__name__} where a list was expected"
        )
    return content


def _parse_json(path: Path) -> Any:
    try:
        if path.stat().st_size > LARGEST_JSON_BYTES:
            raise BadModel(
                f"{path} is larger than {LARGEST_JSON_BYTES // 2**20} MB, too large for a"
                " configuration; it is not opened"
            )
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise BadModel(f"{path} cannot be read as JSON: {str(error)[:200]}") from error


def without_code(config: dict[str, Any]) -> dict[str, Any]:
    """Returns a copy of a configuration without keys, at any depth, that could load code.

    >>> without_code(
    ...     {
    ...         "hidden_size": 8,
    ...         "auto_map": {"AutoModel": "evil.Model"},
    ...         "text": {"trust_remote_code": True, "heads": 2},
    ...     }
    ... )
    {'hidden_size': 8, 'text': {'heads': 2}}
    """
    return {key: _clean(value) for key, value in config.items() if not _LOADS_CODE.fullmatch(key)}


def _clean(value: Any) -> Any:
    if isinstance(value, dict):
        return without_code(value)
    return [_clean(item) for item in value] if isinstance(value, list) else value


def weight_files(folder: Path) -> list[Path]:
    """Returns the safetensors files of the model's weights. Raises BadModel without any."""
    if (folder / "model.safetensors").exists():
        names = ["model.safetensors"]
    elif (folder / "model.safetensors.index.json").exists():
        weight_map = read_json(folder, "model.safetensors.index.json").get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise BadModel(f"{folder / 'model.safetensors.index.json'} has no `weight_map`")
        names = sorted({str(name) for name in weight_map.values()})
    else:
        raise BadModel(_no_weights(folder))
    paths = [inside(folder, name) for name in names]
    for path in paths:
        if path.suffix != ".safetensors" or not path.is_file():
            raise BadModel(
                f"{folder} names {path.name} as a file of weights; there is no such safetensors"
                " file"
            )
    return paths


def _no_weights(folder: Path) -> str:
    pickle_files = sorted(path.name for path in folder.glob("*") if path.suffix in _PICKLE_SUFFIXES)
    if not pickle_files:
        return (
            f"{folder} holds no model.safetensors (and no model.safetensors.index.json); is the"
            " download complete?"
        )
    return (
        f"{folder} holds its weights as {', '.join(pickle_files[:3])}, a format that can run code"
        " when it is opened, so it is not opened. "
        "If you trust its source, convert it once: "
        'python -c "from transformers import AutoModel;'
        f' AutoModel.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})"'
    )


def read_tensors(path: Path) -> dict[str, Shaped[Tensor, "..."]]:
    """Returns the tensors in a safetensors file, after a check of its header."""
    check_safetensors(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise BadModel(f"{path} cannot be read as safetensors: {str(error)[:200]}") from error


def check_safetensors(path: Path) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each tensor. Raises BadModel unless the header is small and correct.

    Its tensors must fill the rest of the file without overlap.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        if size < 8 or header_bytes > min(LARGEST_HEADER_BYTES, size - 8):
            raise BadModel(
                f"{path} says its header has {header_bytes} bytes, which is impossible; the file is"
                " damaged or hostile"
            )
        try:
            header = json.loads(file.read(header_bytes))
        except (ValueError, RecursionError) as error:
            raise BadModel(
                f"{path} has no readable header; the file is damaged or hostile"
            ) from error
    if not isinstance(header, dict):
        raise BadModel(f"{path} has no readable header; the file is damaged or hostile")
    header.pop("__metadata__", None)
    spans = sorted(_span(path, name, entry) for name, entry in header.items())
    end = 0
    for start, stop in spans:
        if start != end:
            raise BadModel(
                f"{path}: its tensors overlap or leave a gap at byte {min(start, end)}; the file is"
                " damaged or hostile"
            )
        end = stop
    if end != size - 8 - header_bytes:
        raise BadModel(
            f"{path} should hold {end} bytes of weights, but holds {size - 8 - header_bytes};"
            " download it again"
        )
    return {name: tuple(entry["shape"]) for name, entry in header.items()}


def _span(path: Path, name: str, entry: Any) -> tuple[int, int]:
    """Returns the start and end of a tensor's bytes; checks that their number fits the shape."""
    match entry:
        case {
            "dtype": str(dtype),
            "shape": list(shape),
            "data_offsets": [start, stop],
        } if dtype in _ITEM_BYTES:
            counts = (
                all(type(number) is int and 0 <= number < 2**48 for number in [*shape, start, stop])
                and len(shape) <= 8
            )
            if counts and start <= stop and stop - start == math.prod(shape) * _ITEM_BYTES[dtype]:
                return start, stop
    raise BadModel(
        f"{path}: the place or shape of tensor {name[:80]!r} is invalid; the file is damaged or"
        " hostile"
    )
