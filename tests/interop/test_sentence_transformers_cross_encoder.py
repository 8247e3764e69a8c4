"""sentence-transformers' CrossEncoder: the same scores from our folders and ours from its, and the
same losses on the same pairs.
"""

import json

import pytest
import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import losses as theirs
from toy_models import SENTENCES
from twins import alike

from trainer import losses
from trainer.models.cross_encoder import (
    CrossEncoderSettings,
    build_cross_encoder,
    read_cross_encoder,
)
from trainer.models.formats.folder import save_encoder
from trainer.objectives import ranking_losses

QUERIES = ("disk gone", "a storage account " * 9, "x", "", "naïve поиск", "every disk")
DOCUMENTS = (SENTENCES[2] * 4, SENTENCES[0], "", "y", SENTENCES[1], "list all machines " * 30)
ASKED = ("disk gone", "all machines", "a region")
CANDIDATES = (
    (SENTENCES[0], SENTENCES[1], SENTENCES[2], "no"),
    (SENTENCES[2], SENTENCES[0], "x", SENTENCES[1]),
    (SENTENCES[1], "a", "b", SENTENCES[3]),
)
GRADES = ((3.0, 1.0, 0.0, 2.0), (2.0, 0.0, 0.0, 1.0), (1.0, 0.0, 0.0, 0.0))


def trained(folder, **more):
    torch.manual_seed(3)
    encoder = build_cross_encoder(CrossEncoderSettings(backbone=str(folder), **more))
    optimizer = torch.optim.SGD(
        [parameter for parameter in encoder.parameters() if parameter.requires_grad], lr=0.05
    )
    encoder(encoder.tokenize_pairs(QUERIES, DOCUMENTS)).sum().backward()
    optimizer.step()
    return encoder


@torch.no_grad()
def scores(encoder):
    return encoder.eval()(encoder.tokenize_pairs(QUERIES, DOCUMENTS))


@pytest.mark.parametrize(
    "family",
    ["bert", "roberta", "xlm-roberta", "mpnet", "modernbert", "distilbert", "qwen2", "llama"],
)
def test_sentence_transformers_gives_the_same_scores_for_our_folders(toy_folder, tmp_path, family):
    encoder = trained(toy_folder(family), document_max_length_tokens=60)
    save_encoder(encoder, tmp_path / "model")
    there = CrossEncoder(str(tmp_path / "model"), device="cpu")
    assert there.max_seq_length == 60
    found = torch.tensor(there.predict(list(zip(QUERIES, DOCUMENTS, strict=True))))
    torch.testing.assert_close(found, scores(encoder), atol=1e-5, rtol=0)
    assert found.std() > 1e-2
    assert found.abs().max() > 1 or found.min() < 0, "scores, not their sigmoids"


def test_folders_of_sentence_transformers_give_scores_before_the_activation(toy_folder, tmp_path):
    torch.manual_seed(1)
    there = CrossEncoder(str(toy_folder("bert")), num_labels=1, device="cpu")
    there.save_pretrained(str(tmp_path / "theirs"))
    found = torch.tensor(there.predict(list(zip(QUERIES, DOCUMENTS, strict=True))))
    ours = read_cross_encoder(str(tmp_path / "theirs"))
    torch.testing.assert_close(scores(ours).sigmoid(), found, atol=1e-5, rtol=0)
    assert found.std() > 1e-3
    save_encoder(ours, tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["architectures"] == [
        "BertForSequenceClassification"
    ]
    torch.testing.assert_close(
        scores(read_cross_encoder(str(tmp_path / "again"))), scores(ours), atol=1e-6, rtol=0
    )


def kl_of_list_net(scores, grades, _):
    """ListNet's cross-entropy is the divergence plus the entropy of the teacher."""
    teacher = grades.softmax(1)
    return losses.kl(scores, grades) - (teacher * teacher.log()).sum(1).mean()


def of_lists(loss):
    """Columns: query, list of candidates."""
    return (
        [list(ASKED), [list(candidates) for candidates in CANDIDATES]],
        loss,
        [torch.tensor(grades) for grades in GRADES],
    )


def first_is_right(loss):
    """Columns: query, positive, negatives."""
    return [list(ASKED), *map(list, zip(*CANDIDATES, strict=True))], loss, torch.tensor(GRADES)


def without_in_batch_negatives(model):
    """Its cross-entropy over each query's own candidates."""
    loss = theirs.MultipleNegativesRankingLoss(model, scale=1, activation_fn=torch.nn.Identity())
    return lambda columns, _: loss.calculate_loss(
        [loss.call_model_with_columns(columns[0], column) for column in columns[1:]],
        len(columns[0]),
    )


def of_pairs():
    pairs = [
        (query, text)
        for query, candidates in zip(ASKED, CANDIDATES, strict=True)
        for text in candidates
    ]
    return (
        [*map(list, zip(*pairs, strict=True))],
        theirs.BinaryCrossEntropyLoss,
        torch.tensor(GRADES).flatten() / 3,
    )


ONE_RIGHT = torch.eye(4)[:1].repeat(3, 1)
CASES = {
    "binary cross-entropy": (
        of_pairs(),
        lambda s, g, x: ranking_losses.binary_cross_entropy(s, g / 3, x),
    ),
    "RankNet": (
        of_lists(lambda model: theirs.RankNetLoss(model, reduction_log="natural")),
        ranking_losses.rank_net,
    ),
    "LambdaLoss": (of_lists(theirs.LambdaLoss), ranking_losses.lambda_loss),
    "softmax": (
        first_is_right(without_in_batch_negatives),
        lambda s, g, x: ranking_losses.softmax_cross_entropy(s, ONE_RIGHT, x),
    ),
    "ListNet": (of_lists(theirs.ListNetLoss), kl_of_list_net),
    "margin-MSE": (first_is_right(theirs.MarginMSELoss), lambda s, g, x: losses.margin_mse(s, g)),
}


@pytest.fixture(scope="module")
def folder(toy_folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("cross") / "model"
    save_encoder(trained(toy_folder("bert"), lora=None), path)
    return path


@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_equal_those_of_sentence_transformers(folder, case):
    (inputs, loss_of, labels), ours = CASES[case]
    there = CrossEncoder(str(folder), device="cpu")
    there.eval()
    value = loss_of(there)(inputs, labels)
    head = next(
        weight for name, weight in there.named_parameters() if name.endswith("classifier.weight")
    )
    wanted = value.detach(), torch.autograd.grad(value, head)[0].flatten()
    encoder = read_cross_encoder(str(folder))
    texts = encoder.tokenize_pairs(
        [query for query in ASKED for _ in range(4)],
        [text for candidates in CANDIDATES for text in candidates],
    )
    loss = ours(
        encoder(texts).reshape(3, 4), torch.tensor(GRADES), torch.zeros(3, 4, dtype=torch.bool)
    )
    found = (
        loss.detach(),
        torch.autograd.grad(loss, encoder.backbone.classifier.weight)[0].flatten(),
    )
    assert alike(found, wanted, 1e-5)
