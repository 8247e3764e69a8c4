"""Questions in words, and images in their place."""

from pathlib import Path

from trainer.errors import BadData


def check_words(question: str) -> None:
    """Raises BadData for a blank question, and for one that is the path of an image."""
    from trainer.images.decode import IMAGE_SUFFIXES

    if not question.strip():
        raise BadData("the question is blank; write the text to search for")
    is_image = question.lower().endswith(IMAGE_SUFFIXES) and len(question) < 256
    if is_image and Path(question).is_file():
        raise BadData(
            f"the question {question!r} is the path of an image; to search with the image, write"
            f" --image {question}"
        )
