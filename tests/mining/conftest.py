"""Makes the toys beside the tests importable, whichever of them runs first."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
