"""Images stand in the place of texts, with the pixels that transformers' image processors make."""

import numpy as np
import pytest
import torch
from image_toys import drawing, encoded
from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil

from trainer.errors import BadText
from trainer.images.images import Images, read_images
from trainer.images.preparation import ImagePreparation
from trainer.images.reference import label, reference_to_bytes
from trainer.microbatches import divide_texts

SQUARE = {"height": 16, "width": 16}
PREPARATION = ImagePreparation(16, 16, "shortest_edge", 3)


@pytest.mark.parametrize("size", [(20, 18), (13, 40), (16, 16), (7, 9)])
@pytest.mark.parametrize("resize_to", [16, 19])
def test_pixels_are_those_of_clip_s_processor(size, resize_to):
    image = drawing(5).resize(size)
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": resize_to}, crop_size=SQUARE, do_normalize=False, do_rescale=False
    )
    expected = processor(image, return_tensors="np").pixel_values[0]
    pixels = ImagePreparation(16, resize_to, "shortest_edge", 3)(image)
    np.testing.assert_array_equal(pixels.numpy(), expected)


@pytest.mark.parametrize("resample", [2, 3])
def test_pixels_are_those_of_siglip_s_processor(resample):
    processor = SiglipImageProcessorPil(
        size=SQUARE, resample=resample, do_normalize=False, do_rescale=False
    )
    expected = processor(drawing(2), return_tensors="np").pixel_values[0]
    pixels = ImagePreparation(16, 16, "exact", resample)(drawing(2))
    np.testing.assert_array_equal(pixels.numpy(), expected)


def references(*numbers):
    return [reference_to_bytes(encoded(drawing(number))) for number in numbers]


def test_images_are_divided_as_texts_of_patches():
    images = read_images(references(0, 1, 0, 2), PREPARATION, patches=5)
    assert images.lengths.tolist() == [5, 5, 5, 5]
    division = divide_texts(images, tokens=11, is_padded=True)
    assert [len(part) for part in division.micro_batches] == [1, 2], "the copy is encoded once"
    assert all(isinstance(part, Images) for part in division.micro_batches)
    together = torch.cat([part.pixels for part in division.micro_batches])
    assert torch.equal(together[division.rows], images.pixels)


def test_selected_images_keep_pixels_and_identities():
    images = read_images(references(0, 1, 2), PREPARATION, patches=5)
    part = images.select(torch.tensor([2, 0]))
    assert torch.equal(part.pixels, images.pixels[[2, 0]])
    assert part.identities.tolist() == images.identities[[2, 0]].tolist()
    assert len(part.tokens) == 10


def test_image_that_disappeared_is_named(tmp_path):
    path = str(tmp_path / "gone.png")
    with pytest.raises(BadText, match=r"gone.png: image file does not exist.*replace") as error:
        read_images([path], PREPARATION, patches=5)
    assert error.value.text == path


def test_label_of_an_image_is_short():
    assert label("a/b.png") == "a/b.png"
    assert label(reference_to_bytes(b"x" * 3000)) == "[image of 3,000 bytes]"
