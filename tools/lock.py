"""Writes requirements/base.txt, dev.txt and pylate.txt: the exact version and hashes of every
package that `make` installs.

`make lock` runs it after a bound in pyproject.toml has changed. One file serves Python 3.11 to 3.13
on every platform. PyTorch and the CUDA packages that only some of its builds need are left out:
`tools/install_torch.py` chooses those.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
LEFT_TO_TORCH = re.compile(r"(torch|triton|nvidia-.*|cuda-.*)$")
PYLATE = "pylate[voyager]==1.6.0\nvoyager<2.2"
"""It passes lists to voyager, which voyager 2.2 refuses."""
LEFT_OUT_OF_PYLATE = re.compile(r"(fast-plaid|usearch|numkong|maturin)$")
"""One of its indexes, which is built for a single version of PyTorch, and its dependencies."""
HEADER = (
    "# Exact versions; written by `make lock`, not by hand. PyTorch is chosen by"
    " tools/install_torch.py and pinned in torch.txt.\n"
)


def main() -> None:
    """Writes the files. `dev` repeats everything in `base` at the same versions; the environment of
    PyLate is independent of both.
    """
    torch, base, dev = (f"requirements/{name}.txt" for name in ("torch", "base", "dev"))
    counts = {
        "base": write_lock(base, resolve("pyproject.toml", "--constraint", torch)),
        "dev": write_lock(
            dev,
            resolve(
                "pyproject.toml", "--constraint", torch, "--constraint", base, "--extra", "dev"
            ),
        ),
        # It asks for another PyTorch only by way of its index.
        "pylate": write_lock(
            "requirements/pylate.txt",
            resolve("-", "--override", torch, text=PYLATE),
            LEFT_OUT_OF_PYLATE,
        ),
    }
    print(", ".join(f"{name}: {count} packages" for name, count in counts.items()))


def resolve(source: str, *options: str, text: str | None = None) -> list[str]:
    """Every package that `source` needs, with its hashes, for all platforms; `text` is the standard
    input that the source `-` reads.
    """
    command = [
        "uv",
        "pip",
        "compile",
        source,
        "--universal",
        "--python-version",
        "3.11",
        "--generate-hashes",
    ]
    command += ["--no-header", "--no-annotate", "--quiet", "--upgrade", *options]
    output = subprocess.run(
        command, cwd=ROOT, check=True, capture_output=True, text=True, input=text
    ).stdout
    return re.split(r"\n(?=\S)", output.strip())


def write_lock(target: str, packages: list[str], left_out: re.Pattern[str] | None = None) -> int:
    """Writes `target` and returns the number of packages in it."""
    names = {package: re.split(r"[=\s]", package)[0] for package in packages}
    locked_packages = [
        package
        for package, name in names.items()
        if not LEFT_TO_TORCH.match(name) and not (left_out and left_out.match(name))
    ]
    (ROOT / target).write_text(HEADER + "\n".join(locked_packages) + "\n", encoding="utf-8")
    return len(locked_packages)


if __name__ == "__main__":
    sys.exit(main())
