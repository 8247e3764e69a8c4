"""Functions of Python files, without their docstrings. The code is parsed and never run."""

import ast
import warnings
from collections.abc import Iterator
from textwrap import dedent

from trainer.data.documents.document import KnownPair, one_line, plain_paragraphs
from trainer.data.documents.sentences import split_sentences

Function = ast.FunctionDef | ast.AsyncFunctionDef
MIN_CODE_LINES = 2
"""Shorter functions, such as `def f(): ...`, have nothing to search."""


def read_python(text: str) -> list[KnownPair]:
    r'''Returns the functions and methods of a file: docstring's first sentence, and the code.

    A function inside another one is part of its code. Raises SyntaxError or ValueError for a text
    that is not Python.

    >>> [pair] = read_python('def area(r):\n    """Area of a circle."""\n    return 3.14 * r * r\n')
    >>> pair.query, pair.text
    ('Area of a circle.', 'def area(r):\n    return 3.14 * r * r')
    '''
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes in strings
        tree = ast.parse(text)
    lines = text.splitlines()
    return [
        KnownPair("docstring", _first_sentence(function), code)
        for function in _functions(tree)
        if len((code := _code(function, lines)).splitlines()) >= MIN_CODE_LINES
    ]


def _functions(tree: ast.AST) -> Iterator[Function]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Function):
            yield node
        else:
            yield from _functions(node)


def _first_sentence(function: Function) -> str:
    docstring = ast.get_docstring(function) or ""
    first = next(iter(plain_paragraphs(docstring)), "")
    return next(iter(split_sentences(one_line(first))), "")


def _code(function: Function, lines: list[str]) -> str:
    """Returns the source of a function, with its decorators and without its docstring."""
    start = min([function.lineno, *(item.lineno for item in function.decorator_list)])
    source = lines[start - 1 : function.end_lineno]
    if ast.get_docstring(function) is not None:
        docstring = function.body[0]
        first, last = docstring.lineno - start, (docstring.end_lineno or 0) - start
        if docstring.lineno == function.lineno:  # on the line of `def`
            return ""
        del source[first : last + 1]
    return dedent("\n".join(source)).strip("\n")
