"""A data set on a hub that cannot be reached."""

import socket

import pytest
from datasets import config
from huggingface_hub import constants

from trainer.data.readers.hub import load_from_hub
from trainer.errors import BadData


def test_unreachable_hub_is_asked_once(monkeypatch):
    questions = []

    def fail(host, *_, **__):
        questions.append(host)
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    monkeypatch.setattr(config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for proxy in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    with pytest.raises(BadData, match=r"x could not be read .* \(it could not be reached"):
        load_from_hub("nobody/nothing", subject="x", advice="y")
    assert len(questions) <= 2, "once, and once by its client for itself"
    assert not config.HF_HUB_OFFLINE, "the next data set asks again"


def test_chosen_offline_mode_asks_nothing(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("asked a network"))
    monkeypatch.setattr(config, "HF_HUB_OFFLINE", True)
    with pytest.raises(BadData, match="Couldn't reach 'nobody/nothing' on the Hub"):
        load_from_hub("nobody/nothing", subject="x", advice="y")
    assert config.HF_HUB_OFFLINE
