"""docs/reference/commands.md and exit-codes.md, written from the command line and its errors."""

import inspect
from collections.abc import Iterator
from typing import Any

COLUMNS = 100
COMMANDS = """# Commands

What `--help` prints, for every command. Written by `make docs` from `trainer/cli`; do not edit.

"""
EXIT_CODES = """# Exit codes

How a command ends. A script may rely on these numbers. Written by `make docs` from
`trainer/errors.py`; do not edit.

An error prints one message: what was given, why it cannot work, and what to do. Only exit code 1
prints a traceback, because only a bug ends with it.

| code | name | when |
|---|---|---|
"""
OTHER_CODES = (
    (0, "", "The command did what was asked."),
    (1, "", "A bug in Nearfar; the traceback is printed. Please report it."),
    (141, "", "The program that read the output has gone, as in `nearfar ... \\| head`."),
)


def commands_page() -> str:
    """Every command with what its `--help` prints."""
    import typer

    from trainer.cli.main import app

    root: Any = typer.main.get_command(app)
    parts, index = (
        [f"## nearfar\n\n```text\n{root.get_help(_context(root, 'nearfar', None)).strip()}\n```\n"],
        [],
    )
    for name, command, context in _leaves(root, "nearfar", None):
        index.append(
            f"- [`{name}`](#{name.replace(' ', '-')}): {command.get_short_help_str(COLUMNS)}"
        )
        parts.append(f"## {name}\n\n```text\n{command.get_help(context).strip()}\n```\n")
    return COMMANDS + "\n".join(index) + "\n\n" + "\n".join(parts)


def _leaves(command: Any, name: str, parent: Any) -> Iterator[tuple[str, Any, Any]]:
    """The commands that have no subcommands, with their full names and contexts."""
    context = _context(command, name, parent)
    if not hasattr(command, "commands"):
        yield name, command, context
        return
    for subcommand in command.list_commands(context):
        yield from _leaves(command.commands[subcommand], f"{name} {subcommand}", context)


def _context(command: Any, name: str, parent: Any) -> Any:
    import click

    return click.Context(
        command,
        parent=parent,
        info_name=name.rpartition(" ")[2],
        terminal_width=COLUMNS,
        max_content_width=COLUMNS,
        color=False,
    )


def exit_codes_page() -> str:
    """Every exit code with the errors that end with it."""
    from trainer import errors

    classes = [
        each
        for each in vars(errors).values()
        if inspect.isclass(each)
        and issubclass(each, errors.NearfarError)
        and each is not errors.NearfarError
    ]
    rows = [
        (
            "of the stage"
            if "exit_code" in inspect.signature(each.__init__).parameters
            else each.exit_code,
            f"`{each.__name__}`",
            " ".join((inspect.getdoc(each) or "").split()).replace("|", "\\|"),
        )
        for each in classes
    ]
    rows = sorted([*OTHER_CODES, *rows], key=lambda row: (isinstance(row[0], str), row[0]))
    return EXIT_CODES + "".join(f"| {code} | {name} | {when} |\n" for code, name, when in rows)
