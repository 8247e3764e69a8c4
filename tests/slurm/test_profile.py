"""What a profile may say; everything else is refused with its line and the nearest right key."""

from pathlib import Path

import pytest

from trainer.errors import BadJob, BadRecipe
from trainer.slurm.profile import Container, Profile, load_profile


def refused(text: str, *changes: str) -> str:
    Path("profile.yaml").write_text(text, encoding="utf-8")
    with pytest.raises((BadJob, BadRecipe)) as caught:
        load_profile(Path("profile.yaml"), changes)
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_profile_is_read(repository: Path) -> None:
    file = repository / "launch/slurm/profiles/container.yaml"
    profile = load_profile(file, ["environment.A=1", "time_limit=90", "modules=[cuda/12.8]"])
    assert profile.container == Container(image="/shared/images/nearfar.sqsh")
    assert (profile.environment, profile.memory, profile.time_limit) == ({"A": "1"}, "0", "90")
    assert profile.modules == ("cuda/12.8",)


def test_empty_profile_has_all_defaults() -> None:
    Path("profile.yaml").write_text("# nothing\n")
    assert load_profile(Path("profile.yaml")) == Profile()


def test_profiles_that_come_with_nearfar_can_be_read(repository: Path) -> None:
    files = sorted((repository / "launch/slurm/profiles").iterdir())
    assert [file.name for file in files] == ["container.yaml", "cpu.yaml", "gpu.yaml"]
    assert [load_profile(file).gpus_per_node for file in files] == [8, 0, 8]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("acount: x", "profile.yaml:1: acount is not a key; did you mean account?"),
        ("container: {imag: x, image: y}", "container.imag is not a key; did you mean"),
        ("container: {}", "profile.yaml:1: container.image is missing: file or address"),
        ("# a\npartition: 'a; b'", "profile.yaml:2: partition: 'a; b' cannot be a name in Slurm"),
        ("account: --wrap=x", "cannot be a name in Slurm"),
        ("constraint: $(x)", "is not a list of node features"),
        ("memory: much", "memory: 'much' is not a size; write e.g. 64G"),
        ("time_limit: soon", "time_limit: 'soon' is not a time limit; write minutes"),
        ("time_limit: 0", "is not a time limit"),
        ("time_limit: 1:00:00:00", "is not a time limit"),
        ("time_limit: 5", "signal_seconds: 300 is not less than time_limit 5"),
        ("signal_seconds: 3", "greater than or equal to 30"),
        ("max_requeues: -1", "greater than or equal to 0"),
        ("log_folder: a b", "cannot be the folder of logs"),
        ("log_folder: -a", "cannot be the folder of logs"),
        ("python: ~/venv/bin/python", "begins with neither ~ nor -"),
        ("modules: [a b]", "modules.0: 'a b' cannot be the name of a module"),
        ("environment: {'A B': x}", "cannot be the name of a variable"),
        ("environment: {SLURM_NNODES: 2}", "no name of Slurm itself"),
        ('environment: {A: "x\\ny"}', "environment.A: 'x\\ny' has a line break"),
        ("environment: {A: true}", "environment.A: True is not valid here"),
        ("container: {image: x, mounts: [a]}", "container.mounts.0: 'a' is not a mount"),
        ("container: {image: x, mounts: ['/a:/b,/c:/d']}", "is not a mount"),
        ("options: {wrap: x}", "options.wrap: 'wrap' is not valid here; input should be 'comment'"),
        ("options: {comment: a b}", "cannot be the value of an option"),
        ("- a", "a profile is a map of keys"),
        ("account: !!python/object:x y", "remove the tag"),
    ],
)
def test_invalid_profile_is_refused(text: str, message: str) -> None:
    assert message in refused(text)


def test_all_problems_are_listed() -> None:
    message = refused("qos: a b\nmemory: much\n", "acount=x")
    assert message.startswith("3 problems in profile profile.yaml")
    assert "command line: acount is not a key; did you mean account?" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("time_limit", "--set time_limit is not KEY=VALUE"),
        (".a=1", "is not KEY=VALUE"),
        ("account.a=1", "account of the profile is not a map of keys"),
    ],
)
def test_invalid_change_is_refused(change: str, message: str) -> None:
    assert message in refused("account: x", change)


def test_missing_profile_is_refused() -> None:
    with pytest.raises(BadRecipe, match=r"profile nothing.yaml cannot be read: No such file"):
        load_profile(Path("nothing.yaml"))
