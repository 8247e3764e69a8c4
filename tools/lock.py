"""Writes requirements/base.txt and requirements/dev.txt: the exact version and hashes of every package `make` installs.

Run by `make lock` after a bound in pyproject.toml has changed. One file serves Python 3.11 to 3.13 on every platform. PyTorch
and the CUDA packages that only some of its builds need are left out: `tools/install_torch.py` chooses those.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
LEFT_TO_TORCH = re.compile(r"(torch|triton|nvidia-.*|cuda-.*)$")
HEADER = "# Exact versions; written by `make lock`, not by hand. PyTorch is chosen by tools/install_torch.py and pinned in torch.txt.\n"


def main() -> None:
    """Compiles both files; `dev` repeats everything in `base` at the same versions."""
    base = compile_lock("requirements/base.txt", constraints=["requirements/torch.txt"])
    dev = compile_lock("requirements/dev.txt", constraints=["requirements/torch.txt", "requirements/base.txt"], extra="dev")
    print(f"base: {base} packages, dev: {dev} packages")


def compile_lock(target: str, constraints: list[str], extra: str | None = None) -> int:
    """Writes `target` and returns how many packages it holds."""
    command = ["uv", "pip", "compile", "pyproject.toml", "--universal", "--python-version", "3.11", "--generate-hashes"]
    command += ["--no-header", "--no-annotate", "--quiet", "--upgrade"]
    command += [argument for file in constraints for argument in ("--constraint", file)]
    command += ["--extra", extra] if extra else []
    text = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    packages = re.split(r"\n(?=\S)", text.strip())
    kept = [package for package in packages if not LEFT_TO_TORCH.match(package.split("==")[0])]
    (ROOT / target).write_text(HEADER + "\n".join(kept) + "\n", encoding="utf-8")
    return len(kept)


if __name__ == "__main__":
    sys.exit(main())
