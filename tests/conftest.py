"""Settings for the package's tests (the chapters run in kernels of their own)."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """The models of the tests are tiny: a second thread only waits, for milliseconds an operation
    where the machine is busy, and sums in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


UNFINISHED = Path(__file__).parent / "unfinished.txt"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests named in unfinished.txt, one a line, are known to fail or to be unproven: they run,
    and are reported as expected failures."""
    names = UNFINISHED.read_text().split("\n") if UNFINISHED.exists() else []
    for item in items:
        if item.nodeid.split("[")[0] in names:
            item.add_marker(pytest.mark.xfail(reason="unfinished", strict=False))
