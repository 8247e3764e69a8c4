"""The stages of benchmarks/gpu.py, one per file. The package need not be installed."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path += [str(ROOT), str(ROOT / "tests")]  # the toy models are those of the tests
