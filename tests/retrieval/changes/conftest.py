"""What tests of changed indexes share."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def texts_encoded_alone():
    """The last bits of a vector depend on the texts that are encoded together with it."""
    with pytest.MonkeyPatch.context() as patch:
        name = "trainer.retrieval.encoding.encode.default_micro_batch_tokens"
        patch.setattr(name, lambda encoder: 1)
        yield
