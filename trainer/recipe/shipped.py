"""The recipes that come with nearfar: `recipes/` of a checkout, `nearfar_recipes` of a wheel."""

from dataclasses import dataclass
from pathlib import Path

from trainer.errors import BadRecipe
from trainer.recipe.nearest import nearest, question
from trainer.recipe.schema.families import DEFAULT_KIND
from trainer.recipe.yaml_text import parse, read_text

FOLDER = "recipes"
_PLACES = [Path(__file__).parents[2] / name for name in ("nearfar_recipes", FOLDER)]


@dataclass(frozen=True, slots=True)
class ShippedRecipe:
    """One line of `nearfar recipe list`."""

    name: str
    kind: str
    summary: str


def shipped_recipes() -> list[ShippedRecipe]:
    """Returns the recipes that come with the package, sorted by name."""
    return [_read_summary(path) for path in sorted(_folder().glob("*.yaml"))]


def recipe_file(path_or_name: str | Path, subfolder: str = "") -> Path:
    """Returns the file at a path, or the shipped file of a name.

    `quickstart` and `recipes/quickstart.yaml` are the same shipped file in every folder. Raises
    BadRecipe with the nearest name if there is no such file.
    """
    path = Path(path_or_name)
    if path.exists():
        return path
    folder = _folder() / subfolder
    if path.parent in (Path(), Path(FOLDER) / subfolder):
        file = folder / f"{path.stem}.yaml"
        if file.is_file() and path.suffix in ("", ".yaml"):
            return file
    names = [file.stem for file in folder.glob("*.yaml")]
    kind = "pipeline" if subfolder else "recipe"
    raise BadRecipe(
        f"there is no file {path_or_name}, and no {kind} of that name comes with nearfar; give a"
        f" path, or one of {', '.join(sorted(names))}{question(nearest(path.stem, names))}"
    )


def _folder() -> Path:
    return next(place for place in _PLACES if (place / "quickstart.yaml").is_file())


def _read_summary(path: Path) -> ShippedRecipe:
    """Returns name and kind of a recipe, and the first line of its header."""
    text = read_text(path)
    comments = [line.removeprefix("#").strip() for line in text.splitlines() if line[:1] == "#"]
    summary = next(line for line in comments if line and not line.startswith("yaml-language"))
    values = parse(text, str(path)).value
    assert isinstance(values, dict)
    return ShippedRecipe(path.stem, str(values.get("kind", DEFAULT_KIND)), summary)
