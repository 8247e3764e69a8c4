"""ColBERT: one encoder for queries and documents, a vector a token, compared by MaxSim (Khattab &
Zaharia 2020).
"""

from trainer.modules.bi_encoder import BiEncoder


class ColBERT(BiEncoder):
    """The bi-encoder's step with an encoder of token vectors and a loss that scores by
    `trainer.scores.maxsim`: there is no other difference.

    Negatives come from all ranks as there: queries travel, filled up to the longest of any rank;
    documents stay, padded to the longest of a micro-batch.
    """
