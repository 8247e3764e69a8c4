"""`nearfar data prepare` and `nearfar data check`."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Build and look at data sets.")


@app.command()
def prepare(
    name: Annotated[str, typer.Argument(help="azure-cli (the quickstart's), or a BEIR set such as scifact where there is a network")],
    folder: Annotated[Path, typer.Option("--folder", "-o", help="the set is written to FOLDER/NAME")] = Path("data"),
    wheel: Annotated[Path | None, typer.Option(help="azure-cli only: a wheel that was downloaded before")] = None,
) -> None:
    """Build a named data set in BEIR layout (corpus.jsonl, queries.jsonl, qrels/)."""
    from trainer.data.prepare import prepare as build
    from trainer.data.prepare import prepared_source

    there = prepared_source(folder / name) is not None if Path(name).name == name else False
    target = build(name, folder, wheel)
    counts = (prepared_source(target) or {}).get("counts", {})
    typer.echo(f"{target}: {'already there' if there else 'written'}; " + ", ".join(f"{n:,} {what.replace('_', ' ')}" for what, n in counts.items()))
