"""The error of the command line for invalid arguments of a verb."""

from typing import Any

import typer

UsageError: Any = typer.BadParameter.__base__
"""typer has no name for it."""
