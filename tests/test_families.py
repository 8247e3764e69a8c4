"""A family of models is new files and one line in each registry: no other file names two families.

What names a family: the module of its model, contract, formats or recipe, or a class of these.
"""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "trainer"
REGISTRIES = {
    "models/families.py": "which family reads a folder",
    "build/families/registry.py": "which family trains by a recipe",
    "recipe/schema/families.py": "the kinds of recipes",
}
SCHEMA = "recipe/schema/"
"""The sections of a recipe: there, all kinds of a section stand beside each other."""
FAMILIES = {
    "dense": {
        "modules": {"dense", "static", "static_student", "dense_pipeline", "bi_encoder"},
        "classes": ("Dense", "BiEncoder", "Static"),
    },
    "late interaction": {
        "modules": {"late_interaction", "late_interaction_pipeline", "pylate", "colbert"},
        "classes": ("LateInteraction", "ColBERT"),
    },
    "sparse": {
        "modules": {"sparse", "sparse_pipeline", "query_weights"},
        "classes": ("Sparse", "QueryWeights", "Regularizer"),
    },
    "cross-encoder": {
        "modules": {"cross_encoder"},
        "classes": ("CrossEncoder",),
    },
    "image-text": {
        "modules": {"image_text", "image_processor", "two_towers"},
        "classes": ("ImageText",),
    },
}
PACKAGES = ("trainer.models", "trainer.build.families", "trainer.recipe.schema")
"""Where the modules of a family are. What `trainer.vectors` has is not of one family."""


def imported(tree):
    """The module and name of everything that a file imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, alias.name) for alias in node.names)


def named_families(source):
    """The families that a file names by what it imports."""
    return {
        family
        for module, name in imported(ast.parse(source))
        if module.startswith(PACKAGES)
        for family, signs in FAMILIES.items()
        if signs["modules"] & {*module.split("."), name} or name.startswith(signs["classes"])
    }


def files_that_name_two(package):
    """Files outside the registries, and what they name."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        place = path.relative_to(package).as_posix()
        families = named_families(path.read_text(encoding="utf-8"))
        if len(families) > 1 and place not in REGISTRIES and not place.startswith(SCHEMA):
            found[place] = sorted(families)
    return found


def test_no_file_outside_the_registries_names_two_families():
    assert files_that_name_two(PACKAGE) == {}


def test_registries_name_every_family():
    for place in REGISTRIES:
        assert named_families((PACKAGE / place).read_text(encoding="utf-8")) == set(FAMILIES)


def test_every_sign_of_a_family_is_in_use():
    """A module or a prefix that exists no more would watch over nothing."""
    modules = {path.stem for path in PACKAGE.rglob("*.py")}
    names = {
        node.name
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    }
    for signs in FAMILIES.values():
        assert signs["modules"] <= modules
        for prefix in signs["classes"]:
            assert any(name.startswith(prefix) for name in names)


@pytest.mark.parametrize(
    "line",
    [
        "from trainer.models.cross_encoder import CrossEncoder",
        "from trainer.models import cross_encoder",
        "import trainer.models.cross_encoder",
        "from trainer.recipe.schema.families import CrossEncoderRecipe",
        "if True:\n    from trainer.models.contracts.cross_encoder import CrossEncoderContract",
    ],
)
def test_planted_second_family_is_found(tmp_path, line):
    (tmp_path / "mining").mkdir()
    source = f"from trainer.models.dense import DenseEncoder\n{line}\n"
    (tmp_path / "mining" / "job.py").write_text(source)
    (tmp_path / "mining" / "other.py").write_text("from trainer.vectors.dense import DenseVectors")
    assert files_that_name_two(tmp_path) == {"mining/job.py": ["cross-encoder", "dense"]}
