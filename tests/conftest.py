"""What every test runs under: no network, no account, one thread a process.

Shape annotations are checked by beartype in the whole run (`--jaxtyping-packages` in
pyproject.toml).
"""

import os

# Before torch is imported: libraries read these once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["MPLBACKEND"] = "Agg"
os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # the other one spoils CUDA for forks

import atexit
import shutil
import tempfile
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # kernels run on the CPU; before Triton is imported
from toy_models import checkpoints, toy_folder  # noqa: F401  # fixtures

REPOSITORY = Path(__file__).parent.parent
if "NEARFAR_CACHE" not in os.environ:  # one for all workers and the processes that they start
    os.environ["NEARFAR_CACHE"] = tempfile.mkdtemp(prefix="nearfar-tests-")
    atexit.register(shutil.rmtree, os.environ["NEARFAR_CACHE"], ignore_errors=True)


def pytest_configure(config: pytest.Config) -> None:
    """Hides GPUs, except from `-m gpu`: the tests fork, and CUDA cannot be used again in a fork."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real data sets in BEIR layout that some checkouts have beside them; tests that need them are
    skipped elsewhere.
    """
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}")
    return folder


@pytest.fixture(autouse=True)
def reproducible():  # type: ignore[no-untyped-def]
    """Every test starts from the same random state and leaves the thread count as it was."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
