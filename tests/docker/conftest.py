"""The scripts of docker/ as modules: they run as files inside images and belong to no package."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "docker"))
