"""EfficientNet-Lite0, converted by `tools/efficientnet_lite.py`, gives the vectors of its paper's
arithmetic, and is an image tower.
"""

import sys
from argparse import Namespace

import pytest
import torch
from torch.nn import functional

from trainer.models.towers.vision import StoredTower, load_tower

STAGES = [  # repeats, kernel, stride, expansion, output channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
]


@pytest.fixture
def tool(repository, monkeypatch):
    monkeypatch.syspath_prepend(repository / "tools")
    import efficientnet_lite

    yield efficientnet_lite
    del sys.modules["efficientnet_lite"]


def blocks():
    """Input channels, output channels, kernel, stride and expansion of each block."""
    channels = 32
    for repeats, kernel, stride, expansion, output in STAGES:
        for number in range(repeats):
            yield channels, output, kernel, 1 if number else stride, expansion
            channels = output


def random_weights():
    """Weights by their names in the published file."""
    generator = torch.Generator().manual_seed(3)
    weights = {"_fc.weight": torch.zeros(1000, 1280), "_fc.bias": torch.zeros(1000)}

    def add(convolution, norm, output, inputs, kernel=1):
        weight = torch.randn(output, inputs, kernel, kernel, generator=generator)
        weights[f"{convolution}.weight"] = weight * (2 / inputs / kernel**2) ** 0.5
        for kind in ("weight", "running_var"):
            weights[f"{norm}.{kind}"] = torch.rand(output, generator=generator) + 0.5
        for kind in ("bias", "running_mean"):
            weights[f"{norm}.{kind}"] = torch.randn(output, generator=generator)
        weights[f"{norm}.num_batches_tracked"] = torch.tensor(0)

    add("_conv_stem", "_bn0", 32, 3, 3)
    for number, (inputs, output, kernel, _, expansion) in enumerate(blocks()):
        name, width = f"_blocks.{number}", inputs * expansion
        if expansion > 1:
            add(f"{name}._expand_conv", f"{name}._bn0", width, inputs)
        add(f"{name}._depthwise_conv", f"{name}._bn1", width, 1, kernel)
        add(f"{name}._project_conv", f"{name}._bn2", output, width)
    add("_conv_head", "_bn1", 1280, 320)
    return weights


def plain_vectors(weights, images):
    """The network written down as TensorFlow computes it."""

    def layer(states, convolution, norm, stride=1, groups=1):
        weight, edge = weights[f"{convolution}.weight"], states.shape[-1]
        padding = max((-(-edge // stride) - 1) * stride + weight.shape[-1] - edge, 0)
        before, after = padding // 2, padding - padding // 2
        states = functional.pad(states, (before, after, before, after))
        states = functional.conv2d(states, weight, stride=stride, groups=groups)
        kinds = ("running_mean", "running_var", "weight", "bias")
        values = (weights[f"{norm}.{kind}"] for kind in kinds)
        return functional.batch_norm(states, *values, eps=1e-3)

    states = functional.relu6(layer(images, "_conv_stem", "_bn0", stride=2))
    for number, (inputs, output, _, stride, expansion) in enumerate(blocks()):
        name, before = f"_blocks.{number}", states
        if expansion > 1:
            states = functional.relu6(layer(states, f"{name}._expand_conv", f"{name}._bn0"))
        states = layer(
            states, f"{name}._depthwise_conv", f"{name}._bn1", stride, inputs * expansion
        )
        states = layer(functional.relu6(states), f"{name}._project_conv", f"{name}._bn2")
        if stride == 1 and inputs == output:
            states = states + before
    return functional.relu6(layer(states, "_conv_head", "_bn1")).mean((2, 3))


def test_converted_model_gives_the_vectors_of_the_plain_network(tool):
    weights = random_weights()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        expected = plain_vectors(weights, images)
        vectors = tool.convert(weights)(images).pooler_output
    assert expected.std() > 0.1
    torch.testing.assert_close(vectors, expected, rtol=1e-4, atol=1e-4)


def test_training_keeps_the_added_factors_at_one(tool):
    model = tool.convert(random_weights())
    model(torch.randn(1, 3, 32, 32)).pooler_output.sum().backward()
    for name, weight in model.named_parameters():
        if ".squeeze_excite." in name:
            assert not weight.grad.any(), name
    assert model.encoder.top_conv.weight.grad.any()


def test_written_folder_is_an_image_tower(tool, tmp_path, monkeypatch):
    import hashlib

    path = tmp_path / "weights.pth"
    torch.save(random_weights(), path)
    arguments = Namespace(weights=path, folder=tmp_path / "tower", image_size=64)
    with pytest.raises(SystemExit, match="SHA-256"):
        tool.main(arguments)
    monkeypatch.setattr(tool, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    tool.main(arguments)
    tower = load_tower(StoredTower(str(tmp_path / "tower")), dropout=0.0)
    assert tower.model.config.hidden_size == 1280
    assert tower.image_fields["image_size"] == 64
    assert tower.image_fields["image_mean"] == (127 / 255,) * 3


def test_missing_file_and_wrong_size_are_refused_before_the_file_is_read(tool, tmp_path):
    for name, size, message in (("none.pth", 224, "none.pth does not exist"),
                                ("other.pth", 50, "--image-size 50 is no multiple of 32"),
                                ("other.pth", 0, "--image-size 0 is no multiple of 32"),
                                ("other.pth", 64, "other.pth has the SHA-256")):  # fmt: skip
        (tmp_path / "other.pth").touch()
        arguments = Namespace(weights=tmp_path / name, folder=tmp_path / "out", image_size=size)
        with pytest.raises(SystemExit, match=message):
            tool.main(arguments)
    assert not (tmp_path / "out").exists()
