"""`nearfar delete`: documents out of an index of token vectors."""

from pathlib import Path
from typing import Annotated

import typer

from trainer.cli.index import show


def delete(
    index: Annotated[
        Path,
        typer.Argument(
            help="folder that `nearfar index` made with a late-interaction model",
            show_default=False,
        ),
    ],
    ids: Annotated[
        list[str], typer.Argument(metavar="ID...", help="documents to take out", show_default=False)
    ],
) -> None:
    """Take documents out of an index of token vectors; all of them or, where one is not there,
    none.
    """
    from trainer.retrieval.token_index.build import delete as delete_documents

    show(index, delete_documents(index, ids))
