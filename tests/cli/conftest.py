"""Models that tests of several commands use."""

import pytest
import torch

from trainer.models.cross_encoder import CrossEncoderSettings, build_cross_encoder
from trainer.models.formats.folder import save_encoder


@pytest.fixture(scope="module")
def model(toy_folder):
    return toy_folder("bert")


@pytest.fixture(scope="module")
def cross(toy_folder, tmp_path_factory):
    """The folder of a cross-encoder."""
    folder = tmp_path_factory.mktemp("cross") / "model"
    torch.manual_seed(7)
    save_encoder(
        build_cross_encoder(CrossEncoderSettings(backbone=str(toy_folder("bert")))), folder
    )
    return folder
