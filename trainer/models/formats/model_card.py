"""The README.md of a saved model."""

import json

from trainer.models.contract import CrossContract, LateContract, TextContract


def model_card(contract: TextContract, adapter: bool) -> str:
    """A short model card: what the model is and how to use it. Every foreign string stands as JSON
    in a code block.
    """
    facts = (
        json.dumps(contract.model_dump(exclude={"version", "tokenizer_fingerprint"}), indent=2)
        .replace("`", "\\u0060")
        .replace("<", "\\u003c")
    )
    beside = (
        "\nThe LoRA adapter alone is in `adapter/`; the weights here have it merged in.\n"
        if adapter
        else ""
    )
    lengths = ""
    if contract.query_max_length_tokens != contract.document_max_length_tokens:
        lengths = (
            "\nQueries and documents are cut at different lengths (below); sentence-transformers"
            " knows only the longer one.\n"
        )
    if isinstance(contract, LateContract):
        return _late_card(facts, beside)
    if isinstance(contract, CrossContract):
        return _cross_card(facts, beside)
    return f"""---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [sentence-transformers, feature-extraction, nearfar]
---
# A text-embedding model

Trained with nearfar. `nearfar encode` and `nearfar search` use this folder as it is, and so does sentence-transformers:

```python
from sentence_transformers import SentenceTransformer
model = SentenceTransformer("path/to/this/folder")
scores = model.similarity(model.encode_query(["a question"]), model.encode_document(["a document"]))
```
{beside}{lengths}
```json
{facts}
```
"""


def _late_card(facts: str, beside: str) -> str:
    return f"""---
library_name: PyLate
pipeline_tag: sentence-similarity
tags: [ColBERT, PyLate, sentence-transformers, nearfar]
---
# A late-interaction (ColBERT) model

Trained with nearfar. `nearfar index` and `nearfar search` use this folder as it is, PyLate and sentence-transformers 6 read it too:

```python
from sentence_transformers import MultiVectorEncoder
model = MultiVectorEncoder("path/to/this/folder")
scores = model.similarity(model.encode_query(["a question"]), model.encode_document(["a document"]))
```
{beside}
```json
{facts}
```
"""


def _cross_card(facts: str, beside: str) -> str:
    return f"""---
library_name: sentence-transformers
pipeline_tag: text-ranking
tags: [cross-encoder, sentence-transformers, text-classification, nearfar]
---
# A cross-encoder

Trained with nearfar. It scores a query and a document together; the higher, the better the document answers the query, and only the order means
something. `nearfar search --rerank` and `nearfar evaluate --rerank` use this folder as it is, and so does sentence-transformers:

```python
from sentence_transformers import CrossEncoder
model = CrossEncoder("path/to/this/folder")
scores = model.predict([("a question", "a document"), ("a question", "another document")])
```
{beside}
```json
{facts}
```
"""
