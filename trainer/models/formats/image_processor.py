"""Files of a model of images and captions: preprocessor_config.json, which says how transformers
prepares images, and the README.
"""

import math
from pathlib import Path
from typing import Any

from trainer.errors import BadModel
from trainer.models.contracts.image_text import ImageTextContract
from trainer.models.contracts.text import TextContract
from trainer.models.files.vetting import read_json
from trainer.models.formats.model_card import ModelCard
from trainer.models.formats.pipeline import write_readable_json

FILE = "preprocessor_config.json"
_RESCALE = 1 / 255
CARD = ModelCard(
    header="""library_name: transformers
pipeline_tag: zero-shot-image-classification
tags: [image-text, nearfar]""",
    title="A model that compares images with captions",
    use="""Written by nearfar. `nearfar evaluate` uses this folder as it is, and transformers reads it too:

```python
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer
model = AutoModel.from_pretrained("path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
processor = AutoImageProcessor.from_pretrained("path/to/this/folder")
images = model.get_image_features(**processor(Image.open("picture.png").convert("RGB"), return_tensors="pt"))
captions = model.get_text_features(**tokenizer(["a caption"], padding=PADDING, return_tensors="pt"))
```

PADDING is True for CLIP and "max_length" for SigLIP. Scale `pooler_output` of both to length 1 and compare by dot
products.""",  # noqa: E501 - Markdown
)
"""The README of a model of images and captions."""
_POOLING_CODE = {
    "mean": "(states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)",
    "cls": "states[:, 0]",
    "last_token": "states[torch.arange(len(states)), mask.sum(1) - 1]",
    "weighted_mean": (
        "torch.einsum('btw,bt->bw', states, mask.cumsum(1) * mask.float())"
        " / (mask.cumsum(1) * mask).sum(1, keepdim=True)"
    ),
}
"""The pooling of `states` under `mask`, in Python."""


def _two_towers_example(contract: TextContract, architecture: str | None, width: int) -> str:
    assert isinstance(contract, ImageTextContract)
    if contract.pooling is None:
        captions = "captions = model.get_text_features(**tokens).pooler_output"
    else:
        captions = f"""states = model.text_model(**tokens).last_hidden_state
mask = tokens["attention_mask"]
captions = model.text_projection({_POOLING_CODE[contract.pooling]})"""
    return f"""
```python
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer
folder = "path/to/this/folder"
model = AutoModel.from_pretrained(folder).eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
processor = AutoImageProcessor.from_pretrained(folder)
pixels = processor(Image.open("picture.png").convert("RGB"), return_tensors="pt")
images = model.get_image_features(**pixels).pooler_output
tokenizer.model_max_length = {contract.query_max_length_tokens}
tokens = tokenizer(["a caption"], padding=True, truncation=True, return_tensors="pt")
{captions}
```

Scale both to length 1 and compare by dot products.
"""


TWO_TOWERS_CARD = ModelCard(
    header=CARD.header,
    title=CARD.title,
    use="""Written by nearfar. `nearfar evaluate` uses this folder as it is, and transformers reads it as
a VisionTextDualEncoderModel. Pool captions as below: its `get_text_features` uses a pooler, which is
missing here, and transformers warns of it. sentence-transformers does not read this folder.""",  # noqa: E501 - Markdown
    examples=_two_towers_example,
)
"""The README of two towers that were put together."""


def read_image_processor(folder: Path) -> dict[str, Any]:
    """Returns the fields of `ImageTextContract` about images. Raises BadModel for settings that
    are missing, or that nearfar does not have.
    """
    if not (folder / FILE).is_file():
        raise BadModel(f"{folder} has no {FILE}, so it is not known how its model prepares images")
    config = read_json(folder, FILE)
    switches = {
        name: config.get(name, True) for name in ("do_resize", "do_rescale", "do_normalize")
    }
    # EfficientNet's processor may normalise twice, or shift to -1..1 before.
    switches |= {name: not config.get(name, False) for name in ("include_top", "rescale_offset")}
    wrong = next((name for name, value in switches.items() if value is not True), None)
    if wrong or not math.isclose(config.get("rescale_factor", _RESCALE), _RESCALE, rel_tol=1e-6):
        raise BadModel(
            f"{folder / FILE}: {wrong or 'rescale_factor'} is"
            f" {config.get(wrong or 'rescale_factor')!r}, which is not supported; images are"
            " resized, divided by 255 and normalised"
        )
    size, crop = config.get("size"), config.get("crop_size")
    try:
        resize_to, resize = _resize(size)
        image_size = _edge(crop) if config.get("do_center_crop", False) else resize_to
        return {
            "image_size": image_size,
            "resize_to": resize_to,
            "resize": resize,
            "resample": int(config.get("resample", 3)),
            "image_mean": _three_numbers(config["image_mean"]),
            "image_std": _three_numbers(config["image_std"]),
        }
    except (TypeError, ValueError, KeyError) as error:
        raise BadModel(
            f"{folder / FILE}: a size, a mean or a deviation cannot be read ({str(error)[:100]});"
            " copy it from the model that it belongs to"
        ) from error


def write_image_processor(
    folder: Path, contract: ImageTextContract, architecture: str, processor: str | None = None
) -> None:
    """Writes the file for transformers. `architecture` is that of the images, such as CLIP, and
    `processor` that of images and captions together, if it is another one.
    """
    is_cropped = contract.resize == "shortest_edge"
    edges = {"height": contract.resize_to, "width": contract.resize_to}
    crop = {"height": contract.image_size, "width": contract.image_size}
    write_readable_json(
        folder / FILE,
        {
            "image_processor_type": f"{architecture}ImageProcessor",
            "processor_class": f"{processor or architecture}Processor",
            "do_resize": True,
            "size": {"shortest_edge": contract.resize_to} if is_cropped else edges,
            "resample": contract.resample,
            **({"do_center_crop": True, "crop_size": crop} if is_cropped else {}),
            "do_rescale": True,
            "rescale_factor": _RESCALE,
            "do_normalize": True,
            "image_mean": list(contract.image_mean),
            "image_std": list(contract.image_std),
            "do_convert_rgb": True,
        },
    )


def _resize(size: Any) -> tuple[int, str]:
    if isinstance(size, int):  # as CLIP's first checkpoints have it
        return size, "shortest_edge"
    if "shortest_edge" in size:
        return int(size["shortest_edge"]), "shortest_edge"
    return _edge(size), "exact"


def _edge(size: Any) -> int:
    if isinstance(size, int):
        return size
    height, width = int(size["height"]), int(size["width"])
    if height != width:
        raise ValueError(f"{height} x {width} is no square")
    return height


def _three_numbers(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
