from __future__ import annotations

from pathlib import Path

import pytest

from . import samples


@pytest.fixture
def results(tmp_path: Path) -> list[Path]:
    return samples.write_results(tmp_path)


@pytest.fixture
def predictions(tmp_path: Path) -> Path:
    return samples.write_predictions(tmp_path)
