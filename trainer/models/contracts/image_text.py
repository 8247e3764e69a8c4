"""The contract of a model that compares images with captions."""

from typing import Literal

from pydantic import Field, PositiveInt

from trainer.images.preparation import ImagePreparation, Resize
from trainer.models.contracts.dense import PoolingKind
from trainer.models.contracts.text import TextContract


class ImageTextContract(TextContract):
    """How captions (the queries) and images (the documents) become one vector of length 1 each.

    `document_max_length_tokens` is the number of patches of an image.
    """

    KIND = "image_text"

    kind: Literal["image_text"] = Field("image_text", description="the family of the model")
    image_size: PositiveInt = Field(description="width and height of an image in pixels")
    resize_to: PositiveInt = Field(description="length in pixels to which an edge is resized")
    resize: Resize = Field(
        description="shortest_edge: cut the middle out afterwards; exact: both edges, distorted"
    )
    resample: int = Field(ge=0, le=5, description="Pillow's number of the filter")
    image_mean: tuple[float, float, float] = Field(
        strict=False, description="subtracted from red, green and blue, which are from 0 to 1"
    )
    image_std: tuple[float, float, float] = Field(
        strict=False, description="the difference is divided by it"
    )
    pooling: PoolingKind | None = Field(
        None,
        description="how token vectors become one vector of a caption; null: as in transformers",
    )
    image_backbone: str | None = Field(
        None,
        description="what the training of the image tower started from; null: `backbone`, or new",
    )

    @property
    def preparation(self) -> ImagePreparation:
        """How an image becomes pixels."""
        return ImagePreparation(self.image_size, self.resize_to, self.resize, self.resample)
