"""The maximum length that the files of a tokenizer give."""

from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from trainer.errors import BadModel


def check_length(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Makes the maximum length a whole number. Raises BadModel for anything else."""
    length: Any = tokenizer.model_max_length
    if not isinstance(length, int | float) or length < 1 or length % 1 != 0:
        raise BadModel(
            f"{folder / 'tokenizer_config.json'}: model_max_length is {str(length)[:80]}, which is"
            " no number of tokens; set it to the longest text that the model was trained on"
        )
    tokenizer.model_max_length = int(length)
