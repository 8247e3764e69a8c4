"""Checks that the pages say what is true: links lead somewhere, named functions, commands and files
exist, the recipe schema is current.

`--write` writes the schema anew first. Prints one line a finding, `page:line: what`, and exits with
1 when there is one.
"""

import argparse
import ast
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

SCHEMA = "docs/recipe.schema.json"
LINK = re.compile(r"(?<!`)\[[^\]]*\]\(([^)\s]+)\)")
CODE_NAME = re.compile(r"`(trainer(?:\.\w+)+)")
MAKE = re.compile(r"(?:^|`|&& )(?:\w+=\S+ )*make ([a-z-]+)")
COMMAND = re.compile(r"(?:^|`|\$ |bin/)nearfar ([a-z]\w*)")
REPOSITORY_PATH = re.compile(
    r"(?<![\w./<-])((?:recipes|docs|tests|trainer|tools|launch|benchmarks|requirements)/[\w./-]*\w)"
)


def main() -> None:
    """Checks every page under the root; exit code 1 when something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the recipe schema anew")
    parser.add_argument("--root", type=Path, default=Path(__file__).parent.parent)
    options = parser.parse_args()
    if options.write:
        (options.root / SCHEMA).write_text(current_schema(), encoding="utf-8")
    findings = [*check_pages(options.root), *check_schema(options.root)]
    print(
        "\n".join(findings) or "docs: links, names, commands, paths and the recipe schema are right"
    )
    sys.exit(bool(findings))


def check_pages(root: Path) -> Iterator[str]:
    """What is wrong in any Markdown page at the top, in docs/ or in launch/."""
    targets = set(
        re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    )
    verbs = known_verbs(root)
    for page in sorted(
        [*root.glob("*.md"), *root.glob("docs/**/*.md"), *root.glob("launch/**/*.md")]
    ):
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
            problems = [
                f"no target `make {name}`" for name in MAKE.findall(line) if name not in targets
            ]
            problems += [
                f"no command `nearfar {name}`"
                for name in COMMAND.findall(line)
                if name not in verbs
            ]
            problems += [
                f"no {name} in the code"
                for name in CODE_NAME.findall(line)
                if not is_defined(root, name)
            ]
            problems += [
                f"the link {link} leads nowhere"
                for link in LINK.findall(line)
                if not leads_somewhere(page, link)
            ]
            problems += [
                f"no file {path}"
                for path in REPOSITORY_PATH.findall(line)
                if not any(root.glob(f"{path}*"))
            ]
            yield from (f"{page.relative_to(root)}:{number}: {problem}" for problem in problems)


def known_verbs(root: Path) -> set[str]:
    """The verbs of the command line: a file each in trainer/cli."""
    return {path.stem.replace("_", "-") for path in (root / "trainer" / "cli").glob("*.py")} - {
        "main",
        "--init--",
    }


def is_defined(root: Path, name: str) -> bool:
    """True when `trainer.module.function` or `trainer.module.Class.method` is a module or stands in
    one, without importing it.
    """
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        path = root.joinpath(*parts[:cut])
        source = (
            path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
        )
        if source.is_file():
            return stands_in(ast.parse(source.read_text(encoding="utf-8")), parts[cut:])
    return False


def stands_in(tree: ast.AST, names: list[str]) -> bool:
    """True when the nested names are functions, classes or assignments of the tree."""
    if not names:
        return True
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == names[0]:
            return stands_in(node, names[1:])
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


def current_schema() -> str:
    """The JSON Schema of a recipe as the code has it now."""
    from trainer.recipe.keys import json_schema

    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def check_schema(root: Path) -> Iterator[str]:
    """A finding when the schema on disk is not what the code says."""
    path = root / SCHEMA
    if not path.is_file() or path.read_text(encoding="utf-8") != current_schema():
        yield f"{SCHEMA}:1: not what the code says; run `make docs`"


if __name__ == "__main__":
    main()
