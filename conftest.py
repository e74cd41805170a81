"""Settings for all tests, chapters included: they must be in place before a kernel starts."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "scripts"))

import notebooks  # noqa: E402  (scripts/notebooks.py, found through the line above)

# Side by side (pytest -n 2) each process computes on one core.
if int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) > 1:
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
for _name, _value in notebooks.KERNEL_ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)
os.environ["DIFFBOOK_STATIC"] = "1"
