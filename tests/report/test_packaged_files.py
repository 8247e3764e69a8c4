"""Templates and style sheet are installed with the package."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATTERNS = """
import json, runpy, setuptools
setuptools.setup = lambda **settings: print(json.dumps(settings["package_data"]["trainer"]))
runpy.run_path("setup.py")
"""


def test_every_file_that_is_no_module_is_package_data():
    read = subprocess.run(
        [sys.executable, "-c", PATTERNS],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    patterns = json.loads(read.stdout.splitlines()[-1])
    listed = subprocess.run(
        ["git", "ls-files", "trainer"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    files = {Path(name) for name in listed.stdout.split() if not name.endswith(".py")}
    packaged = {
        path.relative_to(ROOT) for pattern in patterns for path in (ROOT / "trainer").glob(pattern)
    }
    assert files <= packaged
    assert Path("trainer/report/templates/style.css") in packaged
