"""The README.md of a saved model."""

import json
from collections.abc import Callable
from dataclasses import dataclass

from trainer.models.contracts.text import TextContract


@dataclass(frozen=True)
class ModelCard:
    """The README of one family of models."""

    header: str
    """The lines of metadata that model hubs read, in YAML."""
    title: str
    use: str
    """Which libraries read the folder, and how, in Markdown."""
    has_lengths_apart: bool = False
    """True when other libraries know only the longer of the two maximum lengths."""
    examples: Callable[[TextContract, str | None, int], str] | None = None
    """How further libraries load the folder, in Markdown: a function of the contract, the
    architecture (None without a transformer) and the width of a token's vector (0 if a projection
    follows).
    """

    def text(
        self, contract: TextContract, adapter: bool, architecture: str | None = None, width: int = 0
    ) -> str:
        """Returns the README of a model with this contract, and with a LoRA adapter if `adapter`.

        `architecture` and `width` are those of `examples`.

        Foreign strings are written as JSON in a code block.
        """
        facts = (
            json.dumps(contract.model_dump(exclude={"version", "tokenizer_fingerprint"}), indent=2)
            .replace("`", "\\u0060")
            .replace("<", "\\u003c")
        )
        examples = self.examples(contract, architecture, width) if self.examples else ""
        notes = "\nnearfar's tests run the Python code above for models of this kind.\n"
        if adapter:
            notes += (
                "\nThe LoRA adapter alone is in `adapter/`; the weights here have it merged in.\n"
            )
        if contract.query_prompt or contract.document_prompt:
            notes += (
                "\nA query begins with `query_prompt` and a document with `document_prompt` (below)."
                " nearfar and the Python examples put them there; before a server, do it yourself.\n"
            )
        lengths = {contract.query_max_length_tokens, contract.document_max_length_tokens}
        if self.has_lengths_apart and len(lengths) > 1:
            notes += (
                "\nQueries and documents are cut at different lengths (below);"
                " sentence-transformers knows only the longer one.\n"
            )
        return f"""---
{self.header}
---
# {self.title}

{self.use}
{examples}{notes}
```json
{facts}
```
"""
