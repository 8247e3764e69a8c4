"""What a page points to: other pages, functions, commands, files. All of it must exist."""

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LINK = re.compile(r"(?<!`)\[[^\]]*\]\(([^)\s]+)\)")
CODE_NAME = re.compile(r"`(trainer(?:\.\w+)+)")
ANCHOR = re.compile(r"((?:trainer|tests|tools|benchmarks)/[\w/]+\.py):([\w.]*\w)")
"""A function in a file, such as `trainer/scores.py:maxsim`."""
MAKE = re.compile(r"(?:^|`|&& )(?:\w+=\S+ )*make ([a-z-]+)")
COMMAND = re.compile(r"(?:^|`|\$ |bin/)nearfar ([a-z]\w*)")
REPOSITORY_PATH = re.compile(
    r"(?<![\w./<-])((?:recipes|docs|tests|trainer|tools|launch|benchmarks|requirements)/[\w./-]*\w)"
)


def check(root: Path) -> Iterator[str]:
    """What is wrong with the pages under the root, one finding per line."""
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    verbs = known_verbs()
    pages = all_pages(root)
    for page in pages:
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
            for problem in problems(root, page, line, targets, verbs):
                yield f"{page.relative_to(root)}:{number}: {problem}"
    for page in sorted(set(pages) - reachable(root)):
        yield f"{page.relative_to(root)}:1: no page that README.md leads to links to this one"


def all_pages(root: Path) -> list[Path]:
    """Every Markdown page at the top, in docs/, in launch/ and in benchmarks/."""
    return sorted(
        page
        for pattern in ("*.md", "docs/**/*.md", "launch/**/*.md", "benchmarks/*.md")
        for page in root.glob(pattern)
    )


def problems(
    root: Path, page: Path, line: str, targets: set[str], verbs: set[str]
) -> Iterator[str]:
    """What is wrong with one line of a page."""
    yield from (f"no target `make {name}`" for name in MAKE.findall(line) if name not in targets)
    yield from (
        f"no command `nearfar {name}`" for name in COMMAND.findall(line) if name not in verbs
    )
    yield from (
        f"no {name} in the code" for name in CODE_NAME.findall(line) if not is_defined(root, name)
    )
    yield from (
        f"no {name} in {file}"
        for file, name in ANCHOR.findall(line)
        if not is_in_file(root / file, name.split("."))
    )
    yield from (
        f"the link {link} leads nowhere"
        for link in LINK.findall(line)
        if not leads_somewhere(page, link)
    )
    yield from (
        f"no file {path}"
        for path in REPOSITORY_PATH.findall(line)
        if not any(root.glob(f"{path}*"))
    )


def known_verbs() -> set[str]:
    """The verbs of the command line."""
    import typer

    from trainer.cli.main import app

    group: Any = typer.main.get_command(app)
    return set(group.commands)


def is_defined(root: Path, name: str) -> bool:
    """True when `trainer.module.function` or `trainer.module.Class.method` is a module or defined
    in one, without importing it.
    """
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        path = root.joinpath(*parts[:cut])
        for source in (path.with_suffix(".py"), path / "__init__.py"):
            if source.is_file():
                return is_in_file(source, parts[cut:])
    return False


def is_in_file(source: Path, names: list[str]) -> bool:
    """True when the file defines the nested names."""
    return source.is_file() and is_in_tree(ast.parse(source.read_text(encoding="utf-8")), names)


def is_in_tree(tree: ast.AST, names: list[str]) -> bool:
    """True when the nested names are functions, classes or assignments of the tree."""
    if not names:
        return True
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == names[0]:
            return is_in_tree(node, names[1:])
        assigned = (
            node.targets
            if isinstance(node, ast.Assign)
            else [node.target]
            if isinstance(node, ast.AnnAssign)
            else []
        )
        if len(names) == 1 and any(
            isinstance(target, ast.Name) and target.id == names[0] for target in assigned
        ):
            return True
    return False


def leads_somewhere(page: Path, link: str) -> bool:
    """True for a web address, and for a path (from the page) and heading that exist."""
    if re.match(r"(https?|mailto):", link):
        return True
    path, _, heading = link.partition("#")
    target = (page.parent / path) if path else page
    if not target.exists():
        return False
    return not heading or heading in set(headings(target))


def headings(page: Path) -> Iterator[str]:
    """The anchors that code hosts make of a page's headings."""
    for title in re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def reachable(root: Path) -> set[Path]:
    """The pages that one gets to from README.md by following links; a link to a folder leads to
    every page in it.
    """
    pages: set[Path] = set()
    waiting = [root / "README.md"]
    while waiting:
        page = waiting.pop()
        if page not in pages:
            pages.add(page)
            for link in LINK.findall(page.read_text(encoding="utf-8")):
                place = link.partition("#")[0] or page.name
                target = Path(os.path.normpath(page.parent / place))
                waiting += target.glob("*.md") if target.is_dir() else [target]
                waiting = [path for path in waiting if path.suffix == ".md" and path.is_file()]
    return pages
