"""Law 14: the import name `trainer` belongs to this project and to no other distribution that
happens to be installed.
"""

from importlib.metadata import entry_points, packages_distributions
from pathlib import Path

import pytest

import trainer


def owners() -> set[str]:
    """The distributions that have the import name. A checkout's build metadata may be found beside
    the installed one, so a name can occur twice.
    """
    return set(packages_distributions()["trainer"])


def test_trainer_comes_only_from_nearfar():
    assert owners() == {"nearfar"}


def test_other_distribution_of_that_name_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    metadata = tmp_path / "trainer-1.1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: trainer\nVersion: 1.1\n")
    (metadata / "top_level.txt").write_text("trainer\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert owners() == {"nearfar", "trainer"}


def test_trainer_is_the_code_under_test(repository: Path):
    assert Path(trainer.__file__).parent == repository / "trainer"


def test_command_is_nearfar():
    (command,) = entry_points(group="console_scripts", name="nearfar")
    assert command.value == "nearfar:main"
