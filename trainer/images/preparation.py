"""From an image to the pixels that a model gets, as the image processors of transformers do it."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

Resize = Literal["shortest_edge", "exact"]


@dataclass(frozen=True)
class ImagePreparation:
    """How an image becomes a square of pixels, before they are normalised."""

    image_size: int
    """Width and height in pixels."""
    resize_to: int
    """The length in pixels that `resize` gives an edge."""
    resize: Resize
    """`shortest_edge` keeps the shape, and the middle is cut out; `exact` distorts it."""
    resample: int
    """Pillow's number of the filter: 2 bilinear, 3 bicubic."""

    def __call__(self, image: Image.Image) -> UInt8[Tensor, "channel pixel_row pixel_column"]:
        """Returns the red, green and blue values of an RGB image, from 0 to 255."""
        image = image.resize(self._size(image), Image.Resampling(self.resample))
        column, row = ((edge - self.image_size) // 2 for edge in image.size)
        # A box beyond the edges is filled with black.
        image = image.crop((column, row, column + self.image_size, row + self.image_size))
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()

    def _size(self, image: Image.Image) -> tuple[int, int]:
        if self.resize == "exact":
            return self.resize_to, self.resize_to
        shortest = min(image.size)
        width, height = (int(self.resize_to * edge / shortest) for edge in image.size)
        return width, height
