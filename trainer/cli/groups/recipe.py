"""`nearfar recipe`: list, show, check, explain, schema."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, assert_never

import typer

from trainer.cli.options import shared
from trainer.storage.redaction import redact
from trainer.storage.visible import visible

if TYPE_CHECKING:
    from trainer.recipe.schema.families import Recipe

app = typer.Typer(no_args_is_help=True, help="List, show, check and explain recipes.")


@app.command("list")
def list_recipes() -> None:
    """List the recipes that come with nearfar: name, kind and purpose."""
    from trainer.recipe.shipped import shipped_recipes

    recipes = shipped_recipes()
    name_width = max(len(recipe.name) for recipe in recipes)
    kind_width = max(len(recipe.kind) for recipe in recipes)
    for recipe in recipes:
        typer.echo(f"{recipe.name:<{name_width}}  {recipe.kind:<{kind_width}}  {recipe.summary}")


@app.command()
def explain(
    key: Annotated[
        str | None,
        typer.Argument(
            help="a key or section, e.g. optimization.learning_rate (default: all keys)",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Explain a key: its meaning, its valid values and its default."""
    from trainer.recipe.explain import explain_keys

    typer.echo(explain_keys(key))


@app.command()
def check(file: shared.RecipeFile, overrides: shared.Overrides = None) -> None:
    """Check a recipe, and summarize it in four lines.

    The exit code is 2 if the recipe is invalid.
    """
    from trainer.recipe.load import load_recipe

    lines = [f"{file}: ok", *_essentials(load_recipe(file, overrides or []))]
    typer.echo(redact("\n".join(map(visible, lines))))


@app.command()
def show(file: shared.RecipeFile, overrides: shared.Overrides = None) -> None:
    """Print the complete recipe as it will run, without secrets.

    It includes all overrides and defaults. The output is itself a recipe.
    """
    from trainer.recipe.load import dump_recipe, load_recipe

    typer.echo(redact(dump_recipe(load_recipe(file, overrides or []))), nl=False)


@app.command()
def schema() -> None:
    """Print the JSON Schema of recipes, for editors."""
    from trainer.recipe.explain import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


def _essentials(recipe: "Recipe") -> list[str]:
    """Returns four lines that summarize a recipe."""
    from trainer.recipe.schema.model import FullTuning, LoraTuning

    optimization, tuning = recipe.optimization, recipe.model.tuning
    match tuning:
        case LoraTuning():
            weights = f"LoRA of rank {tuning.rank}"
        case FullTuning():
            weights = "all weights"
        case _:
            assert_never(tuning)
    length = f"{optimization.epochs} epoch{'s' if optimization.epochs > 1 else ''}"
    if optimization.max_steps:
        length = f"{optimization.max_steps} steps"
    elif optimization.min_steps:
        length += f", at least {optimization.min_steps} steps"
    return [
        f"  model      {recipe.model.base_names}, {weights}",
        f"  data       {', '.join(source.source for source in recipe.data.sources)}",
        (
            f"  objective  {recipe.objective.kind}, {optimization.batch_size} queries per step,"
            f" {length}, learning rate {optimization.learning_rate:g}"
        ),
        f"  run        {Path(recipe.output) / recipe.name}",
    ]
