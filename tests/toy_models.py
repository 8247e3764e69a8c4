"""Tiny models of every backbone family: real architectures with random weights, and tokenizers
trained on a few sentences.
"""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoTokenizer,
    CLIPImageProcessorPil,
    PreTrainedTokenizerFast,
    SiglipImageProcessorPil,
)

from trainer.models.formats.folder import save_encoder
from trainer.models.sparse import SparseSettings, build_sparse_encoder

SENTENCES = (
    "Delete a disk.",
    "Create a storage account in the western region.",
    "Show how many queries a database answers in one second, and then list every virtual machine!",
    "naïve Ünïcode, поиск, 検索",
)
"""Sentences of different lengths."""

ENCODERS = ("bert", "roberta", "xlm-roberta", "mpnet", "modernbert", "distilbert")
DECODERS = ("qwen2", "qwen3", "llama")
FAMILIES = (*ENCODERS, *DECODERS)

_SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 66,
    # Large, so that a wrong mask or position changes vectors by far more than rounding does.
    "initializer_range": 0.3,
}
_FAMILY_SETTINGS = {
    "roberta": {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "type_vocab_size": 1},
    "xlm-roberta": {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "type_vocab_size": 1},
    "mpnet": {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2},
    "modernbert": {
        "local_attention": 8,
        "global_attn_every_n_layers": 2,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "cls_token_id": 0,
        "sep_token_id": 2,
    },
    "distilbert": {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4},
    "qwen2": {"num_key_value_heads": 2, "bos_token_id": None, "eos_token_id": 2},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 8, "bos_token_id": None, "eos_token_id": 2},
    "llama": {"num_key_value_heads": 2, "bos_token_id": 0, "eos_token_id": 2},
}


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function from a family to its Hugging Face folder. Copy a folder before changing it."""
    return toy_folders(tmp_path_factory)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny CLIP in `clip` and a tiny SigLIP in `siglip`, and models of texts and
    images alone in `text` and `vit`.
    """
    folder = tmp_path_factory.mktemp("image-text")
    for kind in ("clip", "siglip"):
        make_image_text_toy(kind, folder / kind)
    make_two_tower_parts(folder)
    return folder


def toy_folders(tmp_path_factory: pytest.TempPathFactory, layers: int = 2) -> Callable[[str], Path]:
    """A function from a family to its Hugging Face folder, which is written on the first call."""

    @cache
    def folder(family: str) -> Path:
        path = tmp_path_factory.mktemp("toy") / family
        make_toy(family, path, layers)
        return path

    return folder


def make_toy(family: str, folder: Path, layers: int = 2) -> None:
    """Writes a tiny model of `family` and its tokenizer into `folder`."""
    tokenizer = word_pieces() if family in ("bert", "distilbert") else byte_pairs(family)
    torch.manual_seed(sum(map(ord, family)))
    settings = (
        _SMALL
        | {"vocab_size": len(tokenizer)}
        | _FAMILY_SETTINGS.get(family, {})
        | {"num_hidden_layers": layers}
    )
    if family == "distilbert":
        settings["n_layers"] = settings.pop("num_hidden_layers")
    model = AutoModel.from_config(AutoConfig.for_model(family, **settings))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def masked_lm(folder: Path) -> Path:
    """The folder of a masked language model that is the toy in `folder` with a head. It is written
    on the first call, which must not be on a rank: only the first rank would write it.
    """
    path = folder.with_name(f"{folder.name}-masked-lm")
    if path.exists():
        return path
    with torch.random.fork_rng():
        torch.manual_seed(11)
        model = AutoModelForMaskedLM.from_pretrained(folder)
        bias = model.get_output_embeddings().bias
        if bias is not None:  # so that some words are active, and others not
            torch.nn.init.normal_(bias, -2.0, 0.3)
    partial = path.with_name(f"{path.name}-partial")
    model.save_pretrained(partial)
    AutoTokenizer.from_pretrained(folder).save_pretrained(partial)
    partial.rename(path)
    return path


def save_sparse_toy(bert: Path, folder: Path, **settings: Any) -> Path:
    """Writes a sparse model whose backbone is `masked_lm(bert)`, and returns its folder."""
    backbone = str(masked_lm(bert))
    save_encoder(build_sparse_encoder(SparseSettings(backbone=backbone, **settings)), folder)
    return folder


IMAGE_SIZE = 16


def make_image_text_toy(kind: str, folder: Path) -> None:
    """Writes a tiny CLIP or SigLIP checkpoint (`kind`: clip or siglip) into `folder`."""
    tokenizer = word_pieces()
    tower = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    texts = {"vocab_size": len(tokenizer), "max_position_embeddings": 24, "eos_token_id": 3}
    torch.manual_seed(sum(map(ord, kind)))
    settings = {
        "text_config": tower | texts | {"bos_token_id": 2, "pad_token_id": 0},
        "vision_config": tower | {"image_size": IMAGE_SIZE, "patch_size": 8},
    }
    if kind == "clip":
        settings["projection_dim"] = 24
    model = AutoModel.from_config(AutoConfig.for_model(kind, **settings))
    for name, weight in model.named_parameters():  # else all images are alike
        if name.startswith("vision_model") and weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.2)
    model.save_pretrained(folder)
    tokenizer.model_max_length = 24
    tokenizer.save_pretrained(folder)
    size: Any = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    if kind == "clip":
        processor = CLIPImageProcessorPil(size={"shortest_edge": IMAGE_SIZE}, crop_size=size)
    else:
        processor = SiglipImageProcessorPil(size=size)
    processor.save_pretrained(folder)


def make_two_tower_parts(folder: Path) -> None:
    """Writes a tiny text model into `text` and a tiny vision model into `vit`, both in `folder`."""
    make_toy("bert", folder / "text")
    torch.manual_seed(7)
    settings = {"image_size": IMAGE_SIZE, "patch_size": 8, "initializer_range": 0.2}
    config = AutoConfig.for_model(
        "vit",
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        **settings,
    )
    AutoModel.from_config(config).save_pretrained(folder / "vit")
    size: Any = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    SiglipImageProcessorPil(size=size).save_pretrained(folder / "vit")


def word_piece_model(special: Sequence[str], others: Sequence[str] = ()) -> models.WordPiece:
    """Pieces for BERT's WordPiece: special tokens, others, letters and every second word.

    They are not learned, because the trainer of the library breaks ties at random.
    """
    normalizer, cutter = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    words = sorted(
        {
            word
            for sentence in SENTENCES
            for word, _ in cutter.pre_tokenize_str(normalizer.normalize_str(sentence))
        }
    )
    letters = sorted({letter for word in words for letter in word})
    pieces = dict.fromkeys(
        [
            *special,
            *others,
            *letters,
            *(f"##{letter}" for letter in letters),
            *words[::2],
            *(f"##{word[1:]}" for word in words[::3]),
        ]
    )
    numbers = {piece: number for number, piece in enumerate(pieces)}
    return models.WordPiece(numbers, unk_token="[UNK]")


def word_pieces() -> PreTrainedTokenizerFast:
    """A lower-casing WordPiece tokenizer like BERT's."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    normalizer, cutter = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer = Tokenizer(word_piece_model(special))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, cutter
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    names = dict(
        zip(
            ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True
        )
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names)


def byte_pairs(family: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer. RoBERTa has <s> and </s> around a text, Llama <s> before it, and
    Qwen nothing.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    end = "<|endoftext|>" if family.startswith("qwen") else "</s>"
    special = ["<s>", "<pad>", end, "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        SENTENCES,
        trainers.BpeTrainer(
            vocab_size=340, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    names = {"eos_token": end, "unk_token": "<unk>"}
    if family in DECODERS:
        if family == "llama":
            names |= {"bos_token": "<s>"}
            tokenizer.post_processor = processors.TemplateProcessing(
                single="<s> $A", special_tokens=[("<s>", 0)]
            )
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, model_max_length=64, padding_side="left", **names
        )
    names |= {
        "bos_token": "<s>",
        "cls_token": "<s>",
        "sep_token": "</s>",
        "pad_token": "<pad>",
        "mask_token": "<mask>",
    }
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names)
