"""Settings for the package's tests (the chapters run in kernels of their own)."""

from collections.abc import Iterator

import browser
import pytest
import torch
from figures import SITE


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """The models of the tests are tiny: a second thread only waits, for milliseconds an operation
    where the machine is busy, and sums in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tab() -> Iterator[browser.Browser]:
    """A headless browser with one tab."""
    with browser.browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Where the built site is served, with a slash at its end."""
    with browser.served(SITE) as root:
        yield root
