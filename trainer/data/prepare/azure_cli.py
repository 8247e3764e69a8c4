"""The quickstart's data: worked examples of the Azure command line, from the `azure-cli` wheel,
each with the help of its command.

The wheel is read as text: its modules are parsed (`ast`), its help is YAML read by a safe loader,
and nothing in it is imported or run.
"""

import ast
import re
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from trainer.data.near_duplicates import normal_form
from trainer.errors import BadData

VERSION = "2.91.0"
WHEEL = f"azure_cli-{VERSION}-py3-none-any.whl"
SHA256 = "998f2b7812e553520c0f4c7bbb8420487d83f9930711cef335401c1f3fc5e0b6"
MODULES = "azure/cli/command_modules/"
REPEATED_IN_DOCUMENTS = 40
"""Help of an argument that so many commands share says nothing of any one of them and is left
out.
"""
MAX_DOCUMENT_WORDS = 160
MAX_FILE_BYTES = 20_000_000

_SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_URL = re.compile(r"\(?https?://\S+")
_GENERATED = re.compile(r"\(auto-?generated\)|^[A-Z][A-Za-z0-9]*_[A-Za-z]", re.IGNORECASE)
README = f"""azure-cli: what one wants to do, in plain words -> the help of the Azure command that does it.
Made from the wheel azure-cli {VERSION} (MIT licence, Copyright (c) Microsoft Corporation), read as text, never run.
query    = the name of a worked example ("Create an inbound NAT address pool"), those marked as generated left out
document = title: the command; text: its summary, description and arguments, without the examples
qrels    = train, dev and test are split by command: no test document is ever a training positive. Queries near-identical to one of
           another split (word sets that overlap by 0.9) were taken out of the training side. Sibling commands can stand on both.
"""


@dataclass
class Command:
    """What the wheel says of one command."""

    name: str
    summary: str = ""
    details: str = ""
    arguments: dict[str, str] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)


def download_wheel(cache: Path) -> Path:
    """The pinned wheel, from `cache` where it is there and whole, else through pip. Raises BadData
    with what to do when pip cannot get it.
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
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode or not path.is_file():
        reason = (answer.stderr.strip() or answer.stdout.strip() or "no output").splitlines()[-1]
        raise BadData(
            f"azure-cli=={VERSION} could not be downloaded ({reason}). Connect this machine to a"
            f" Python package index and run the command again, or download {WHEEL} elsewhere and"
            f" pass it with `--wheel {WHEEL}`."
        )
    return checked_wheel(path)


def checked_wheel(path: Path) -> Path:
    """`path` itself if it is the pinned wheel. Raises BadData otherwise."""
    if not path.is_file():
        raise BadData(f"{path} is not a file; give the path of {WHEEL}.")
    found = _digest(path)
    if found != SHA256:
        raise BadData(
            f"{path} is not {WHEEL}: its sha256 is {found}, expected {SHA256}. Delete it and run"
            " the command again."
        )
    return path


def read_commands(wheel: Path) -> dict[str, Command]:
    """Every command of the wheel that has help, by name."""
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


def documents(commands: dict[str, Command]) -> dict[str, dict[str, str]]:
    """Title and text of each command's document: the help and the arguments, without the examples,
    URLs and what all commands share.
    """
    said = Counter(
        normal_form(text)
        for command in commands.values()
        for text in set(command.arguments.values())
    )
    found = {}
    for name, command in commands.items():
        arguments = [
            f"{option}: {text}"
            for option, text in command.arguments.items()
            if said[normal_form(text)] <= REPEATED_IN_DOCUMENTS
        ]
        words = " ".join(
            [_sentence(command.summary), _sentence(command.details), *map(_sentence, arguments)]
        ).split()
        found[name] = {"title": f"az {name}", "text": " ".join(words[:MAX_DOCUMENT_WORDS])}
    return found


def queries(commands: dict[str, Command]) -> dict[str, tuple[str, ...]]:
    """Each worked example's name, cleaned, with the commands it was written for; names that only
    repeat the command are left out.
    """
    asked: dict[str, tuple[str, dict[str, None]]] = {}
    for command in commands.values():
        for example in command.examples:
            query = clean_query(example, command.name)
            if query:
                asked.setdefault(normal_form(query), (query, {}))[1][command.name] = None
    return {query: tuple(names) for query, names in asked.values()}


def clean_query(example: str, command: str) -> str:
    """The example's name as a person would ask it, or "" when it was made by a machine from the
    command's name.

    >>> clean_query("Create a managed disk. ", "disk create")
    'Create a managed disk'
    >>> [
    ...     clean_query(name, "disk create")
    ...     for name in ("Create a disk. (autogenerated)", "Disks_CreateOrUpdate", "az disk create")
    ... ]
    ['', '', '']
    """
    text = " ".join(_URL.sub("", example).split()).strip(" .:;,-")
    said = normal_form(text).removeprefix("az ").split()
    made_by_machine = (
        _GENERATED.search(text)
        or len(said) < 2
        or sorted(said) == sorted(normal_form(command).split())
    )
    return "" if made_by_machine else text


def _read_generated(module: ast.Module, commands: dict[str, Command]) -> None:
    """A file of the aaz generator: one class a command, its help in the docstring, its arguments
    assigned to a schema.
    """
    for statement in module.body:
        if not isinstance(statement, ast.ClassDef):
            continue
        names = [
            _literal(call.args[0])
            for call in statement.decorator_list
            if isinstance(call, ast.Call) and _called(call) == "register_command"
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
    """`_args_schema.name = AAZ...Arg(options=[...], help=...)`: the longest option and its help."""
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
        given = {
            keyword.arg: _literal(keyword.value)
            for keyword in node.value.keywords
            if keyword.arg in ("options", "help")
        }
        text = given.get("help")
        text = text.get("short-summary") if isinstance(text, dict) else text
        options = [option for option in given.get("options") or () if isinstance(option, str)] or [
            node.targets[0].attr
        ]
        if isinstance(text, str) and text.strip():
            yield max(options, key=len).lstrip("-").replace("-", " ").replace("_", " "), text


def _read_help(module: ast.Module, commands: dict[str, Command]) -> None:
    """A `_help.py`: assignments `helps['name'] = "yaml"`; it wins over what the generator wrote."""
    for statement in module.body:
        if not (
            isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Subscript)
        ):
            continue
        name, text = _literal(statement.targets[0].slice), _literal(statement.value)
        if not isinstance(name, str) or not isinstance(text, str):
            continue
        described = _yaml(text)
        if not isinstance(described, dict) or described.get("type") != "command":
            continue
        command = commands.setdefault(name, Command(name))
        command.summary = _plain(described.get("short-summary")) or command.summary
        command.details = _plain(described.get("long-summary")) or command.details
        for parameter in described.get("parameters") or ():
            if isinstance(parameter, dict) and (said := _plain(parameter.get("short-summary"))):
                options = _plain(parameter.get("name")).split() or [""]
                command.arguments[max(options, key=len).lstrip("-").replace("-", " ")] = said
        command.examples += [
            _plain(example.get("name"))
            for example in described.get("examples") or ()
            if isinstance(example, dict)
        ]


def _literal(node: ast.AST) -> Any:
    """The constant a node spells, None when it is computed."""
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError):
        return None


def _called(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else ""


def _yaml(text: str) -> Any:
    """What a YAML text says, by the safe loader only (no tags, no objects)."""
    loader = _SafeLoader(text)
    try:
        return loader.get_single_data()
    except yaml.YAMLError:
        return None
    finally:
        loader.dispose()


def _plain(value: object) -> str:
    """A help entry, which may be a list of lines, as one line."""
    return (
        " ".join(" ".join(map(str, value)).split())
        if isinstance(value, list)
        else " ".join(str(value or "").split())
    )


def _sentence(text: str) -> str:
    """The text on one line, without URLs, ended by a full stop unless empty."""
    line = " ".join(_URL.sub("", text).split()).strip()
    return line if not line or line.endswith((".", "!", "?", ":")) else f"{line}."


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        digest = sha256()
        while block := file.read(1 << 20):
            digest.update(block)
        return digest.hexdigest()
