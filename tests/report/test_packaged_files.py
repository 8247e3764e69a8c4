"""Templates and style sheet are installed with the package."""

import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_file_that_is_no_module_is_package_data():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = settings["tool"]["setuptools"]["package-data"]["trainer"]
    listed = subprocess.run(
        ["git", "ls-files", "trainer"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    files = {Path(name) for name in listed.stdout.split() if not name.endswith(".py")}
    packaged = {
        path.relative_to(ROOT) for pattern in patterns for path in (ROOT / "trainer").glob(pattern)
    }
    assert files <= packaged
    assert Path("trainer/report/templates/style.css") in packaged
