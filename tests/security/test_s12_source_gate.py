"""S12: nothing in the package can run what data, a recipe or a model folder brings.

The scan reads the syntax tree, so a mention in prose is no finding, and an import or assignment
under another name is no way round. Each rule is shown to bite. It is a net for mistakes: who wants
to get past it can, with `getattr` and a sum of strings.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

FORBIDDEN_MODULES = {
    "pickle",
    "_pickle",
    "pickletools",
    "cloudpickle",
    "dill",
    "jsonpickle",
    "joblib",
    "marshal",
    "shelve",
    "runpy",
    "code",
}
FORBIDDEN_CALLS = {
    *(
        "eval",
        "exec",
        "compile",
        "__import__",
        "builtins.eval",
        "builtins.exec",
        "builtins.compile",
        "builtins.__import__",
    ),
    *(
        "os.system",
        "os.popen",
        "pty.spawn",
        "commands.getoutput",
        "subprocess.getoutput",
        "subprocess.getstatusoutput",
    ),
    *("yaml.unsafe_load", "yaml.unsafe_load_all", "yaml.full_load", "yaml.full_load_all"),
    *(
        "pandas.read_pickle",
        "pydoc.locate",
        "pkgutil.resolve_name",
        "hydra.utils.instantiate",
        "torch.hub.load",
    ),
}
FORBIDDEN_PREFIXES = ("os.exec", "os.spawn")
LOADERS_OF_PICKLES = {
    "torch.load",
    "torch.jit.load",
    "numpy.load",
    "joblib.load",
    "pytorch_lightning.utilities.cloud_io.load",
}
IMPORTERS = {
    "importlib.import_module",
    "importlib.util.spec_from_file_location",
    "importlib.__import__",
    "pkgutil.find_loader",
}
SAFE_YAML_LOADERS = {"SafeLoader", "CSafeLoader", "yaml.SafeLoader", "yaml.CSafeLoader"}


class Gate(ast.NodeVisitor):
    """Collects `line: reason` for everything the package must not do."""

    def __init__(self, tree: ast.AST) -> None:
        self.findings: list[str] = []
        self.full_names: dict[str, str] = {}
        self.safe_loaders = set(SAFE_YAML_LOADERS)
        self.called: set[ast.AST] = set()
        self.visit_imports(tree)
        self.visit(tree)

    def visit_imports(self, tree: ast.AST) -> None:
        """First pass: what every local name stands for, and which classes are safe YAML loaders."""
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    package = alias.name.split(".")[0]
                    self.full_names[alias.asname or package] = (
                        alias.name if alias.asname else package
                    )
            elif isinstance(node, ast.ImportFrom):
                self.full_names |= {
                    alias.asname or alias.name: f"{node.module}.{alias.name}"
                    for alias in node.names
                }
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and any(
                self.name(base) in self.safe_loaders for base in node.bases
            ):
                self.safe_loaders.add(node.name)

    def name(self, node: ast.AST) -> str:
        """The dotted name a node stands for, aliases resolved; empty where it has none."""
        if isinstance(node, ast.Name):
            return self.full_names.get(node.id, node.id)
        if isinstance(node, ast.Attribute):
            owner = self.name(node.value)
            return f"{owner}.{node.attr}" if owner else ""
        return ""

    def report(self, node: ast.AST, reason: str) -> None:
        self.findings.append(f"{node.lineno}: {reason}")  # type: ignore[attr-defined]

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            if alias.name.split(".")[0] in FORBIDDEN_MODULES:
                self.report(node, f"import of {alias.name}")

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if (node.module or "").split(".")[0] in FORBIDDEN_MODULES:
            self.report(node, f"import from {node.module}")

    def visit_Call(self, node: ast.Call) -> None:
        self.called.add(node.func)
        name = self.name(node.func)
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        is_own_start = name == "os.execv" and self.name(node.args[0]) == "sys.executable"
        if name in FORBIDDEN_CALLS or (name.startswith(FORBIDDEN_PREFIXES) and not is_own_start):
            self.report(node, f"call of {name}")
        if name in LOADERS_OF_PICKLES and not self.is_safe_load(name, keywords):
            self.report(node, f"{name} may unpickle")
        if name in ("yaml.load", "yaml.load_all", "yaml.Loader"):
            loader = keywords.get(
                "Loader", node.args[1] if len(node.args) > 1 else ast.Constant(None)
            )
            if self.name(loader) not in self.safe_loaders:
                self.report(node, f"{name} without a SafeLoader")
        if name in IMPORTERS and not self.is_literal_import(node):
            self.report(node, f"{name} of a computed name")
        for keyword, value in keywords.items():
            self.check_keyword(node, keyword, value)
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name | ast.Attribute) -> None:
        """A dangerous function that is not called but handed on could be called anywhere."""
        name = self.name(node)
        if node not in self.called and name in FORBIDDEN_CALLS | LOADERS_OF_PICKLES | IMPORTERS | {
            "yaml.load",
            "yaml.load_all",
        }:
            self.report(node, f"{name} is handed on")
        self.generic_visit(node)

    visit_Attribute = visit_Name

    def check_keyword(self, node: ast.Call, keyword: str | None, value: ast.expr) -> None:
        """`shell` and `allow_pickle` and `trust_remote_code` may be passed, but only as a plain
        False.
        """
        is_false = isinstance(value, ast.Constant) and value.value is False
        if keyword in ("shell", "trust_remote_code", "allow_pickle") and not is_false:
            self.report(node, f"{keyword} is not a plain False")
        if keyword == "weights_only" and not (
            isinstance(value, ast.Constant) and value.value is True
        ):
            self.report(node, "weights_only is not a plain True")

    @staticmethod
    def is_safe_load(name: str, keywords: dict[str | None, ast.expr]) -> bool:
        """torch.load says weights_only=True, numpy.load says allow_pickle=False; the other loaders
        are never safe.
        """
        wanted = {"torch.load": ("weights_only", True), "numpy.load": ("allow_pickle", False)}.get(
            name
        )
        given = keywords.get(wanted[0]) if wanted else None
        return wanted is not None and isinstance(given, ast.Constant) and given.value is wanted[1]

    @staticmethod
    def is_literal_import(node: ast.Call) -> bool:
        """True when the name of the module stands in the code."""
        return (
            bool(node.args)
            and isinstance(node.args[0], ast.Constant)
            and isinstance(node.args[0].value, str)
        )


def scan(source: str) -> list[str]:
    """Findings in one file's source."""
    return Gate(ast.parse(source)).findings


def files(repository: Path) -> Iterator[Path]:
    yield from sorted((repository / "trainer").rglob("*.py"))


def test_package_is_clean(repository: Path):
    scanned = list(files(repository))
    assert len(scanned) >= 10
    findings = [
        f"{file.relative_to(repository)}:{finding}"
        for file in scanned
        for finding in scan(file.read_text(encoding="utf-8"))
    ]
    assert findings == []


PLANTED = [
    "import pickle",
    "import pickle as harmless",
    "from pickle import loads as read",
    "def f():\n    import dill",
    "from joblib import load",
    "import torch\ntorch.load('x')",
    "import torch\ntorch.load('x', weights_only=False)",
    "import torch\nflag = True\ntorch.load('x', weights_only=flag)",
    "from torch import load as read\nread('x')",
    "import torch as t\nt.load('x')",
    "import torch\ntorch.jit.load('x')",
    "import torch\ntorch.hub.load('a', 'b')",
    "import numpy as np\nnp.load('x')",
    "import numpy as np\nnp.load('x', allow_pickle=True)",
    "import yaml\nyaml.load('x')",
    "import yaml\nyaml.load('x', Loader=yaml.Loader)",
    "import yaml\nyaml.load('x', yaml.UnsafeLoader)",
    "from yaml import load\nload('x')",
    "import yaml\nclass Mine(yaml.Loader): ...\nyaml.load('x', Loader=Mine)",
    "import yaml\nyaml.unsafe_load('x')",
    "import yaml\nyaml.full_load('x')",
    "import torch\nread = torch.load",
    "from os import system as go\nrun_all(map(go, words))",
    "read = eval",
    "eval('1')",
    "exec('1')",
    "compile('1', 'f', 'eval')",
    "__import__('os')",
    "import builtins\nbuiltins.eval('1')",
    "import os\nos.system('true')",
    "from os import system\nsystem('true')",
    "import os\nos.popen('true')",
    "import os\nos.execv('true', [])",
    "import subprocess\nsubprocess.run('true', shell=True)",
    "import subprocess\nflag = True\nsubprocess.run('true', shell=flag)",
    "import subprocess\nsubprocess.getoutput('true')",
    "import importlib\nimportlib.import_module(recipe['kind'])",
    "from importlib import import_module\nimport_module('trainer.' + kind)",
    "from pydoc import locate\nlocate('os.system')",
    "from transformers import AutoModel\nAutoModel.from_pretrained('x', trust_remote_code=True)",
    "from transformers import AutoModel\nAutoModel.from_pretrained('x', trust_remote_code=flag)",
]


@pytest.mark.parametrize("source", PLANTED)
def test_planted_danger_is_caught(source: str):
    assert scan(source), source


@pytest.mark.parametrize(
    "source",
    [
        "'''Never pickle, eval or yaml.load.'''",
        "import torch\ntorch.load('x', weights_only=True)",
        "import numpy as np\nnp.load('x', allow_pickle=False)",
        "import yaml\nyaml.safe_load('x')",
        "import yaml\nyaml.load('x', Loader=yaml.SafeLoader)",
        "import yaml\nclass Strict(yaml.SafeLoader): ...\nyaml.load('x', Loader=Strict)",
        "import importlib\nimportlib.import_module('trainer.cli.fit')",
        "import re\nre.compile('x')",
        "model.eval()",
        "import os, sys\nos.execv(sys.executable, [sys.executable, *words])",
        "import subprocess\nsubprocess.run(['git', 'status'], shell=False)",
        (
            "from transformers import AutoModel\nAutoModel.from_pretrained('x',"
            " trust_remote_code=False)"
        ),
    ],
)
def test_safe_code_passes(source: str):
    assert scan(source) == []
