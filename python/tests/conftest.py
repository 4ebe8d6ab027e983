"""What the tests share: no model hub, one thread's worth of numbers, and the program."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "python"), str(Path(__file__).parent)]
if "ATTNMAP" not in os.environ and (ROOT / "target" / "release" / "attnmap").is_file():
    os.environ["ATTNMAP"] = str(ROOT / "target" / "release" / "attnmap")


@pytest.fixture(scope="session")
def fixtures() -> Path:
    return ROOT / "tests" / "fixtures"


@pytest.fixture(scope="session")
def schemas() -> Path:
    return ROOT / "docs" / "schema"
