"""The generated reference has every command, exit code and recipe key."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field, TypeAdapter

from trainer import errors
from trainer.recipe.keys import all_keys


@pytest.fixture(autouse=True)
def tools(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(repository / "tools")


def test_commands_are_all_in_the_reference() -> None:
    from pages.commands import commands_page

    page = commands_page()
    for verb in ("fit", "index", "search", "mine", "evaluate"):
        assert f"\n## nearfar {verb}\n\n```text\nUsage: nearfar {verb} " in page
    assert "\n## nearfar data check\n" in page
    assert "--pool-factor" in page


def test_exit_codes_are_all_in_the_reference() -> None:
    from pages.commands import exit_codes_page

    page = exit_codes_page()
    for error in (errors.BadData, errors.NonFinite, errors.Interrupted):
        assert f"| {error.exit_code} | `{error.__name__}` |" in page
    assert "| of the stage | `StageFailed` |" in page


def test_recipe_keys_are_all_in_the_reference(repository: Path) -> None:
    page = (repository / "docs" / "reference" / "recipe.md").read_text(encoding="utf-8")
    names = {key.name for key in all_keys() if not key.name.endswith(".kind")}
    assert len(names) > 60
    assert [name for name in sorted(names) if f"| `{name}` |" not in page] == []


class Schedule(BaseModel):
    """The steps."""

    steps: int = Field(10, gt=0, le=99, description="how many")


class Small(BaseModel):
    """A small family."""

    kind: Literal["small"] = "small"
    name: str
    schedule: Schedule = Schedule()


class Large(BaseModel):
    """A large family."""

    kind: Literal["large"] = "large"
    name: str
    width: int | None = None
    schedule: Schedule = Schedule()


def test_keys_of_all_families_are_listed_once() -> None:
    from pages.recipe_keys import recipe_page

    families = TypeAdapter(Annotated[Small | Large, Field(discriminator="kind")])
    shared, small, large = recipe_page(families.json_schema()).split("\n## ")[1:]
    row = "| `schedule.steps` | whole number above 0 to 99 | `10` | how many |"
    assert shared.startswith("Keys of every family\n")
    assert row in shared
    assert "| `name` | text | **required** |  |" in shared
    assert small.startswith("kind: small\n")
    assert "A small family." in small
    assert "name" not in small
    assert large.startswith("kind: large\n")
    assert "| `width` | whole number, null | `null` |  |" in large
    assert row not in small + large
