"""A stage in a folder."""

import pytest

from chapters.toys import FakeStage, write_inputs
from wpat.toys import TINY


@pytest.fixture
def stage(tmp_path):
    write_inputs(tmp_path)
    return FakeStage(tmp_path, TINY)
