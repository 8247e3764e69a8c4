"""Writes a late-interaction model for PyLate and sentence-transformers."""

from pathlib import Path

from trainer.models.contracts.late_interaction import LateInteractionContract
from trainer.models.formats.library_examples import late_interaction_examples
from trainer.models.formats.model_card import ModelCard
from trainer.models.formats.pipeline import write_modules, write_settings
from trainer.models.parts.projection import Projection

CARD = ModelCard(
    header="""library_name: PyLate
pipeline_tag: sentence-similarity
tags: [ColBERT, PyLate, sentence-transformers, nearfar]""",
    title="A late-interaction (ColBERT) model",
    use="""Written by nearfar. `nearfar index` and `nearfar search` use this folder as it is, PyLate and sentence-transformers 6 read it too:

```python
from sentence_transformers import MultiVectorEncoder
model = MultiVectorEncoder("path/to/this/folder")
scores = model.similarity(model.encode_query(["a question"]), model.encode_document(["a document"]))
```""",  # noqa: E501 - a line of Markdown
    examples=late_interaction_examples,
)


def write_late_interaction_pipeline(
    folder: Path, contract: LateInteractionContract, projection: Projection
) -> None:
    """Writes transformer and projection with the settings of PyLate 1.x.

    sentence-transformers 6 reads them, too, and adds mask and normalisation.
    """
    write_modules(folder, {"": "Transformer", "1_Dense": "Dense"})
    projection.write(folder / "1_Dense")
    write_settings(
        folder,
        contract,
        "MaxSim",
        model_type="ColBERT",
        query_prefix=contract.query_marker,
        document_prefix=contract.document_marker,
        query_length=contract.query_max_length_tokens,
        document_length=contract.document_max_length_tokens,
        do_query_expansion=contract.query_expansion,
        attend_to_expansion_tokens=contract.attend_to_expansion,
        skiplist_words=list(contract.skipped_tokens),
    )
