"""How other libraries load a model folder, in Markdown, for the model card.

Prompts and lengths are read from the folder, so no text of a stranger is part of the code.
"""

from trainer.models.contracts.dense import DenseContract
from trainer.models.contracts.text import TextContract

FOLDER = "path/to/this/folder"
"""What the examples call the folder."""
_TEI_ARCHITECTURES = {
    "bert",
    "camembert",
    "roberta",
    "xlm-roberta",
    "mpnet",
    "modernbert",
    "qwen2",
    "qwen3",
}
_VLLM_ARCHITECTURES = {
    "bert",
    "roberta",
    "xlm-roberta",
    "modernbert",
    "qwen2",
    "qwen3",
    "llama",
    "mistral",
}
_TEI = """# Text Embeddings Inference, on port 8080
docker run -p 8080:80 -v "$PWD:/models" ghcr.io/huggingface/text-embeddings-inference:cpu-1.8 --model-id /models/{folder}"""  # noqa: E501
_VLLM = "# vLLM\nvllm serve {folder} --runner pooling"
_INFINITY = "# Infinity\ninfinity_emb v2 --model-id {folder}"
_POOLING = {
    "mean": "(tokens * mask).sum(1) / mask.sum(1)",
    "cls": "tokens[:, 0]",
    "last_token": "tokens[torch.arange(len(tokens)), mask.sum((1, 2)) - 1]",
}
_TRANSFORMERS = """import json
import torch
from transformers import AutoModel, AutoTokenizer

folder = "{folder}"
settings = json.load(open(folder + "/nearfar.json"))
tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="right")
model = AutoModel.from_pretrained(folder).eval()

def encode(texts, role):
    texts = [settings[role + "_prompt"] + text for text in texts]
    batch = tokenizer(
        texts,
        padding=True,
        truncation=True,
        max_length=settings[role + "_max_length_tokens"],
        return_tensors="pt",
    )
    with torch.inference_mode():
        tokens = model(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    vectors = {pooling}
    return {result}

scores = encode(["a question"], "query") @ encode(["a document"], "document").T"""
_TRANSFORMERS_PAIRS = """import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{folder}")
model = AutoModelForSequenceClassification.from_pretrained("{folder}").eval()
batch = tokenizer(
    ["a question"], ["a document"], padding=True, truncation=True, return_tensors="pt"
)
with torch.inference_mode():
    scores = model(**batch).logits[:, 0]"""
_TABLE = """import json
import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

folder = "{folder}"
settings = json.load(open(folder + "/nearfar.json"))
table = load_file(folder + "/model.safetensors")["embedding.weight"]
tokenizer = Tokenizer.from_file(folder + "/tokenizer.json")

def encode(text, role):
    tokens = tokenizer.encode(settings[role + "_prompt"] + text, add_special_tokens=False).ids
    vector = table[tokens].mean(0)
    return {result}

score = encode("a question", "query") @ encode("a document", "document")"""
_PYLATE = """from pylate import models, rank
model = models.ColBERT("{folder}")
queries = model.encode(["a question"], is_query=True)
documents = model.encode([["a document", "another document"]], is_query=False)
results = rank.rerank([["first", "second"]], queries, documents)"""


def dense_examples(contract: TextContract, architecture: str | None, width: int) -> str:
    """Returns examples for a model with one vector per text.

    `architecture` is the `model_type` of a transformer, or None for a table of token vectors.
    `width` is that of a token's vector, or 0 if a projection follows.
    """
    assert isinstance(contract, DenseContract)
    pooling = _POOLING.get(contract.pooling)
    is_simple = pooling is not None and contract.dimensions == width and contract.include_prompt
    if architecture is None:
        return _table(contract) if is_simple and contract.pooling == "mean" else ""
    if not is_simple:
        return _servers([_INFINITY])
    vectors = "torch.nn.functional.normalize(vectors, dim=-1)" if contract.normalize else "vectors"
    code = _TRANSFORMERS.replace("{pooling}", str(pooling)).replace("{result}", vectors)
    return _transformers(code, architecture)


def pair_examples(contract: TextContract, architecture: str | None, width: int) -> str:
    """Returns examples for a transformer with one score per pair."""
    return _transformers(_TRANSFORMERS_PAIRS, architecture)


def late_interaction_examples(contract: TextContract, architecture: str | None, width: int) -> str:
    """Returns an example for a transformer with one vector per token."""
    return f"\nPyLate:\n{_block(_PYLATE)}"


def _table(contract: DenseContract) -> str:
    vector = "vector / np.linalg.norm(vector)" if contract.normalize else "vector"
    return f"\ntokenizers and safetensors:\n{_block(_TABLE.replace('{result}', vector))}"


def _transformers(code: str, architecture: str | None) -> str:
    servers = [_TEI] * (architecture in _TEI_ARCHITECTURES)
    servers += [_VLLM] * (architecture in _VLLM_ARCHITECTURES)
    return f"\ntransformers:\n{_block(code)}{_servers([*servers, _INFINITY])}"


def _servers(commands: list[str]) -> str:
    return (
        "\nServers; the commands follow their documentation, and nearfar's tests do not run them:\n"
        + _block("\n".join(commands), "bash")
    )


def _block(code: str, language: str = "python") -> str:
    return f"\n```{language}\n{code.replace('{folder}', FOLDER)}\n```\n"
