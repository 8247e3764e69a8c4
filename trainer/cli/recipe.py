"""`nearfar recipe`: explain, check, show, schema."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trainer.storage.visible import visible

if TYPE_CHECKING:
    from trainer.recipe.schema import Recipe

app = typer.Typer(no_args_is_help=True, help="Explain, check and show recipes.")

RecipeFile = Annotated[
    Path, typer.Argument(help="recipe file, e.g. recipes/bi-encoder-lora.yaml", show_default=False)
]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="changes to it: key.sub=value", show_default=False)
]


@app.command()
def explain(
    key: Annotated[
        str | None,
        typer.Argument(help="a key or section, e.g. optimization.learning_rate; none: all of them"),
    ] = None,
) -> None:
    """What a key means, what it takes, and its default."""
    from trainer.recipe.keys import explain as explanation

    typer.echo(explanation(key))


@app.command()
def check(file: RecipeFile, overrides: Overrides = None) -> None:
    """Say what a recipe comes to, or what is wrong with it.

    The exit code is 2 where something is.
    """
    from trainer.recipe.load import load_recipe

    lines = [f"{file}: ok", *_essentials(load_recipe(file, overrides or []))]
    typer.echo("\n".join(map(visible, lines)))


@app.command()
def show(file: RecipeFile, overrides: Overrides = None) -> None:
    """Print the whole recipe as it will be run.

    Overrides are put in and defaults written out; what is printed is a recipe itself.
    """
    from trainer.recipe.load import dump_recipe, load_recipe

    typer.echo(dump_recipe(load_recipe(file, overrides or [])), nl=False)


@app.command()
def schema() -> None:
    """Print the JSON Schema of recipes, for editors."""
    from trainer.recipe.keys import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


def _essentials(recipe: "Recipe") -> list[str]:
    """Four lines on what a recipe does."""
    optimization, tuning = recipe.optimization, recipe.model.tuning
    trained = f"LoRA of rank {tuning.rank}" if tuning.kind == "lora" else "all weights"
    length = (
        f"{optimization.max_steps} steps"
        if optimization.max_steps
        else f"{optimization.epochs} epoch{'s' if optimization.epochs > 1 else ''}"
    )
    return [
        f"  model      {recipe.model.backbone}, {trained}",
        f"  data       {', '.join(source.source for source in recipe.data.sources)}",
        (
            f"  objective  {recipe.objective.kind}, {optimization.batch_size} queries a step,"
            f" {length}, learning rate {optimization.learning_rate:g}"
        ),
        f"  run        {Path(recipe.output) / recipe.name}",
    ]
