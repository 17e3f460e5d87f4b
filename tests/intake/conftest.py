"""Desks on which examinations are laid out and ingested."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the builders beside this file serve several test files


@pytest.fixture
def desk(tmp_path: Path) -> Any:
    from nifti_builder import Desk

    return Desk(tmp_path)


@pytest.fixture
def dicom(tmp_path: Path) -> Any:
    from dicom_builder import DicomDesk

    return DicomDesk(tmp_path)
