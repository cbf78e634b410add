"""Settings for all tests."""

from __future__ import annotations

import pytest
import torch

# The cases are small: threads waiting for each other would cost more than they bring, most of all on a busy machine.
torch.set_num_threads(1)

# Files whose few tests take longest. One that starts last runs alone.
LONGEST = ("test_cuda_executor.py", "test_driver.py", "test_kernel_limits.py", "test_triton_interpreted.py")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where files are shared out (pytest-xdist --dist loadfile --no-loadscope-reorder) the longest start first."""
    if hasattr(config, "workerinput"):  # in a process of pytest-xdist
        items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
