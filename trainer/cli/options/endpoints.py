"""Options for an endpoint of a language model."""

from typing import Annotated, Any

import typer

Parallel = Annotated[
    int, typer.Option("--parallel", min=1, metavar="N", help="prompts that are asked at a time")
]
Timeout = Annotated[
    float, typer.Option("--timeout", min=0.1, metavar="SECONDS", help="longest time for an answer")
]


def url(option: str, purpose: str) -> Any:
    """Returns the option for the URL. `purpose` says what the language model does."""
    return typer.Option(
        option,
        metavar="URL",
        help=(
            f"{purpose}: address of an OpenAI-compatible endpoint, e.g. http://127.0.0.1:8000/v1;"
            " its key is read from NEARFAR_ENDPOINT_KEY"
        ),
        show_default=False,
    )


def model(option: str) -> Any:
    """Returns the option for the name of the model."""
    return typer.Option(
        option,
        metavar="NAME",
        help="model of the endpoint; not needed if it has only one",
        show_default=False,
    )
