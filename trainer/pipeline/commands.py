"""Checks the commands of stages against the command line of nearfar."""

from typing import Any

from trainer.errors import BadPipeline
from trainer.pipeline.keys import KeyedStage
from trainer.pipeline.usage_error import UsageError
from trainer.recipe.nearest import nearest, question


def check_command(stage: KeyedStage, tree: Any) -> None:
    """Raises `BadPipeline` if the command of a stage is not a valid command line. Runs nothing.

    `tree` is the command with all its verbs. So a typing error in the last stage is reported at
    once, not after hours.
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
            f"stage {stage.name}: a pipeline cannot be a stage; copy its stages into this pipeline"
        )
    if "--help" in words:
        raise BadPipeline(f"stage {stage.name}: `{name} --help` only shows help; remove --help")
    try:
        command.make_context(name, words)
    except UsageError as error:
        raise BadPipeline(
            f"stage {stage.name}: `{name}`: {error.format_message()} (see `{name} --help`)"
        ) from error
