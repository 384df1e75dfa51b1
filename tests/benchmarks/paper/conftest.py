"""The tiny archive of the paper's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.paper.tiny import write_archive


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    write_archive(tmp_path, 32)
    return tmp_path
