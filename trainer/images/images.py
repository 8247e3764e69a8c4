"""`Images`: decoded images in the place of texts."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from trainer.batch import Texts, identity
from trainer.errors import BadText
from trainer.images.decode import BadImage, decode
from trainer.images.preparation import ImagePreparation
from trainer.images.reference import label, read_image_bytes


@dataclass(frozen=True, slots=True)
class Images(Texts):
    """Images as texts whose tokens are patches: all have equally many, and the tokens say nothing.

    So micro-batches, exclusions and the exchange between ranks need to know nothing of images.
    """

    pixels: UInt8[Tensor, "image channel pixel_row pixel_column"] = field(kw_only=True)

    @classmethod
    def from_pixels(
        cls,
        pixels: UInt8[Tensor, "image channel pixel_row pixel_column"],
        identities: Int[Tensor, " image"],
        patches: int,
    ) -> Self:
        """Builds images that count as `patches` tokens each."""
        tokens = torch.zeros(1, dtype=torch.long).expand(len(pixels) * patches)
        offsets = torch.arange(len(pixels) + 1) * patches
        return cls(tokens, offsets, identities, role="document", pixels=pixels)

    def select(self, rows: Int[Tensor, " row"]) -> Self:
        """Returns the images at `rows`, in that order."""
        patches = len(self.tokens) // max(1, len(self))
        return self.from_pixels(self.pixels[rows], self.identities[rows], patches)


def read_images(references: Sequence[str], preparation: ImagePreparation, patches: int) -> Images:
    """Decodes the images of references. Any thread may call it.

    Raises BadText with the reference of an image that cannot be decoded.
    """
    pixels = torch.stack([_pixels(reference, preparation) for reference in references])
    identities = torch.tensor([identity(reference) for reference in references])
    return Images.from_pixels(pixels, identities, patches)


def _pixels(
    reference: str, preparation: ImagePreparation
) -> UInt8[Tensor, "channel pixel_row pixel_column"]:
    try:
        return preparation(decode(read_image_bytes(reference)))
    except BadImage as error:
        raise BadText(
            f"{label(reference)}: {error}; replace the image, or remove its row", reference
        ) from None
