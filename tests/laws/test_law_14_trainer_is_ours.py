"""Law 14: the import name `trainer` belongs to this project and to no other distribution that
happens to be installed.
"""

from importlib.metadata import entry_points, packages_distributions
from pathlib import Path

import trainer


def test_trainer_comes_from_nearfar_alone():
    # A checkout's own build metadata may be found beside the installed one: the name counts, not
    # how often.
    assert set(packages_distributions()["trainer"]) == {"nearfar"}


def test_trainer_is_the_code_under_test(repository: Path):
    assert Path(trainer.__file__).parent == repository / "trainer"


def test_the_command_is_nearfar():
    (command,) = entry_points(group="console_scripts", name="nearfar")
    assert command.value == "trainer.cli.main:main"
