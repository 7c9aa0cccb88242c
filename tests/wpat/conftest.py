"""Parameters of a training run of seconds."""

import pytest

from wpat.toys import TINY


@pytest.fixture
def tiny():
    return TINY
