"""Installs the build of PyTorch that fits this machine: with CUDA if there is an NVIDIA GPU, else
without.

The CUDA build also runs without a GPU, but brings several gigabytes that nothing would use. Which
build the package index offers under the plain name depends on the platform. So pip is asked first,
without downloading. If it offers the other build, uv is used, which knows where PyTorch keeps each
build. Standard library only: it runs before anything is installed.

NEARFAR_TORCH=cpu or =cuda overrides the choice; =any takes the build that pip offers.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).parent.parent / "requirements"
TORCH = (REQUIREMENTS / "torch.txt").read_text(encoding="utf-8").split()[-1]
UV = "uv==0.13.9"
PIP = [sys.executable, "-m", "pip", "install", "--quiet", "--quiet"]  # twice: errors only


def main() -> None:
    """Installs PyTorch. If it cannot, it says why and what to do, and ends with exit code 1."""
    wanted = os.environ.get("NEARFAR_TORCH") or ("cuda" if has_nvidia_gpu() else "cpu")
    if wanted not in ("cpu", "cuda", "any"):
        sys.exit(f"NEARFAR_TORCH is {wanted!r}; it can be cpu, cuda or any.")
    installed = installed_build()
    if installed is not None and wanted in (installed, "any"):
        print(f"  {TORCH} ({installed}) is installed")
        return
    offered = offered_build()
    if wanted in (offered, "any"):
        print(f"  {TORCH} ({offered})", flush=True)
        install([*PIP, TORCH], wanted)
    else:
        print(
            f"  {TORCH} ({wanted}; the package index offers {offered or 'none'}, so uv fetches it"
            " from PyTorch's own)",
            flush=True,
        )
        install([*PIP, UV], wanted)
        backend = "cpu" if wanted == "cpu" else "auto"
        install(
            [
                sys.executable,
                "-m",
                "uv",
                "pip",
                "install",
                "--quiet",
                "--python",
                sys.executable,
                f"--torch-backend={backend}",
                TORCH,
            ],
            wanted,
        )


def has_nvidia_gpu() -> bool:
    """True where the NVIDIA driver sees a GPU."""
    if shutil.which("nvidia-smi"):
        return (
            "GPU"
            in subprocess.run(
                ["nvidia-smi", "-L"], check=False, capture_output=True, text=True
            ).stdout
        )
    return Path("/proc/driver/nvidia/version").exists()


def installed_build() -> str | None:
    """The build (cpu or cuda) of the wanted version in this environment, or None."""
    code = (
        "import torch; print(torch.__version__.split('+')[0], 'cuda' if torch.version.cuda else"
        " 'cpu')"
    )
    version_and_build = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True
    ).stdout.split()
    if not version_and_build or f"torch=={version_and_build[0]}" != TORCH:
        return None
    return version_and_build[1]


def offered_build() -> str | None:
    """The build that pip would install, read from its metadata alone, or None if it offers none."""
    command = [*PIP, "--dry-run", "--no-deps", "--ignore-installed", "--report", "-", TORCH]
    answer = subprocess.run(command, check=False, capture_output=True, text=True)
    if answer.returncode:
        return None
    return build_of(json.loads(answer.stdout)["install"][0]["metadata"])


def build_of(metadata: dict) -> str:
    """`cuda` when the build needs NVIDIA's packages on this machine.

    >>> build_of({"version": "2.13.0+cpu", "requires_dist": ["sympy"]})
    'cpu'
    >>> build_of({"version": "2.13.0+cu130", "requires_dist": []})
    'cuda'
    """
    version = metadata["version"]
    if "+" in version:
        return "cuda" if version.split("+")[1].startswith("cu") else "cpu"
    needs_nvidia = any(
        re.match(r"nvidia-", requirement) for requirement in metadata.get("requires_dist", [])
    )
    return "cuda" if needs_nvidia and sys.platform == "linux" else "cpu"


def install(command: list[str], wanted: str) -> None:
    """Runs an installer, which prints why it failed; this then prints what to do."""
    if subprocess.run(command, check=False).returncode:
        sys.exit(
            f"\n{TORCH} could not be installed in its {wanted} build for Python"
            f" {sys.version_info.major}.{sys.version_info.minor} (reason above).\nEither: the"
            " network failed; run the same command again, it continues where it stopped.\nOr this"
            " network does not reach PyTorch's package index. Then `NEARFAR_TORCH=any make setup`"
            " takes the build that the\nordinary package index has (on Linux with CUDA: works"
            " without a GPU too, several GB), or put a wheel of it into a\nfolder and run"
            " `PIP_FIND_LINKS=/that/folder make setup`."
        )


if __name__ == "__main__":
    main()
