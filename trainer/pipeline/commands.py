"""Whether the commands of stages fit the command line."""

from typing import Any

import typer

from trainer.errors import BadPipeline
from trainer.pipeline.keys import Keyed
from trainer.recipe.nearest import nearest, question

_UsageError: Any = typer.BadParameter.__base__
"""The error of the command line for words that do not fit a verb; typer does not name it."""


def check_command(stage: Keyed, tree: Any) -> None:
    """Raises `BadPipeline` when a stage's words do not fit the command line; nothing is run.

    `tree` is the command with all its verbs. A misspelt last stage so fails at once, not after
    hours.
    """
    command, (name, *words) = tree, stage.command
    while hasattr(command, "commands"):
        verb = words.pop(0) if words else ""
        if verb not in command.commands:
            advice = question(nearest(verb, command.commands))
            advice = advice or f"; its commands are {', '.join(command.commands)}"
            raise BadPipeline(f"stage {stage.name}: there is no command `{name} {verb}`{advice}")
        name, command = f"{name} {verb}", command.commands[verb]
    if name == "nearfar pipeline":
        raise BadPipeline(
            f"stage {stage.name}: a pipeline cannot be a stage; put its stages into this one"
        )
    if "--help" in words:
        raise BadPipeline(f"stage {stage.name}: `{name} --help` only shows help; take it out")
    try:
        command.make_context(name, words)
    except _UsageError as error:
        raise BadPipeline(
            f"stage {stage.name}: `{name}`: {error.format_message()} (see `{name} --help`)"
        ) from error
