"""S10 and S11: names that lead elsewhere are refused before anything is opened; what data says
cannot drive the terminal.
"""

import json
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from trainer.cli.groups.data import app
from trainer.data.prepare.named_sets import prepare
from trainer.data.readers.beir import read_qrels
from trainer.data.readers.corpus import read_corpus
from trainer.data.readers.read import read_rows
from trainer.data.readers.report import ReadReport
from trainer.data.retrieval_set import read_retrieval_set
from trainer.errors import BadData, TooManyBadRows

NAMES = [
    "../../etc/passwd",
    "/etc",
    "..",
    ".",
    "",
    "scifact/../../x",
    "file:///etc/passwd",
    "http://169.254.169.254/latest",
    "https://example.org/x",
    "\\\\host\\share",
    "a\x00b",
    "scifact\n",
    "-d",
    "~/x",
    "s3://bucket/x",
]


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize("name", NAMES, ids=ascii)
@pytest.mark.usefixtures("no_network")
def test_s10_names_to_prepare_are_from_a_list(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadData, match="choose one of: azure-cli"):
        prepare(name, tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "source",
    [
        "../../x",
        "a/../../b",
        "file:///etc/passwd",
        "http://169.254.169.254/latest/x.jsonl",
        "https://h/x",
        "a\x00b",
        "owner//x",
    ],
    ids=ascii,
)
@pytest.mark.usefixtures("no_network")
def test_s10_addresses_and_paths_are_no_hub_names(source: str) -> None:
    with pytest.raises(BadData):
        read_rows(source)
    with pytest.raises(BadData):
        read_retrieval_set(source, "test")


def test_s10_link_out_of_a_folder_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret.jsonl"
    secret.write_text('{"_id": "d", "text": "secret"}\n')
    folder = tmp_path / "set"
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").symlink_to(secret)
    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "q"}\n')
    (folder / "qrels" / "train.tsv").write_text("q\td\t1\n")
    with pytest.raises(BadData, match="a link that leads out of"):
        read_rows(str(folder))


def test_s10_split_cannot_leave_the_folder(tmp_path: Path) -> None:
    (tmp_path / "set" / "qrels").mkdir(parents=True)
    (tmp_path / "set" / "corpus.jsonl").write_text('{"_id": "d", "text": "t"}\n')
    (tmp_path / "outside.tsv").write_text("q\td\t1\n")
    with pytest.raises(BadData, match="no split '../../outside'"):
        read_qrels(tmp_path / "set", "../../outside", ReadReport("set"))


def test_s11_texts_of_data_are_escaped_on_the_console(tmp_path: Path) -> None:
    path = tmp_path / "hostile.jsonl"
    attack = "\x1b]0;owned\x07\x1b[31m[bold]red[/bold]\u202e\r"
    records = [
        {"query": f"{attack}{at}", "positive": f"p{attack}", f"column{attack}": "x"}
        for at in range(2)
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records) + '{"' + "\x1b[2J\n")
    answer = CliRunner().invoke(app, ["check", str(path)])
    assert answer.exit_code == 87
    assert "[bold]red[/bold]" in answer.output
    assert "\\x1b]0;owned\\x07" in answer.output
    assert not {letter for letter in answer.output if letter in "\x1b\x07\r\u202e\x00"}
    as_json = CliRunner().invoke(app, ["check", str(path), "--json"]).output
    assert not {letter for letter in as_json if letter in "\x1b\x07\r\u202e"}
    assert json.loads(as_json)["parts"][0]["example"]["positive"] == f"p{attack}"


def test_s11_quotations_in_errors_are_escaped(tmp_path: Path) -> None:
    path = tmp_path / "hostile.jsonl"
    path.write_text(json.dumps({"query\x1b[2J": "x", "positive": 3}) + "\n")
    with pytest.raises(BadData) as raised:
        read_rows(str(path))
    assert "\x1b" not in str(raised.value)
    path.write_text(json.dumps({"query": ["\x1b[2J"], "positive": "x"}) + "\n")
    with pytest.raises(TooManyBadRows) as excess:
        read_rows(str(path))
    assert "\x1b" not in str(excess.value)
    path.write_text(json.dumps({"\x1b[2J": "x"}) + "\n")
    with pytest.raises(TooManyBadRows) as excess:
        [*read_corpus(path, ReadReport("hostile"))]
    assert "\x1b" not in str(excess.value)
