"""The settings: strict, ordered, and importable without heavy packages."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from leuk_lib.alhe.params import AlheParams, EnhanceParams
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.params import check


@pytest.mark.parametrize(
    "values",
    [
        {"clip_limit": 0.5},
        {"contrast_floor": 1.1},
        {"gain_box": 4},
        {"entropy_low": 0.8},
        {"gain_low": 98.0},
        {"cliplimit": 2.0},
        {"tiles": "4"},
    ],
)
def test_invalid_settings_raise(values):
    with pytest.raises(ValidationError):
        EnhanceParams(**values)


def test_stage_parameters_are_enhancement_settings():
    params = check("alhe", AlheParams, {"clip_limit": 3.0, "run": "r"})
    assert isinstance(params, EnhanceParams) and params.clip_limit == 3.0
    assert EnhanceParams() == EnhanceParams(
        **{name: getattr(AlheParams(), name) for name in EnhanceParams.model_fields}
    )
    for name, present in {"cliplimit": "clip_limit", **AlheParams.RENAMED}.items():
        with pytest.raises(LeukError, match=f"did you mean '{present}'"):
            check("alhe", AlheParams, {name: 3})


def test_parameters_load_nothing_heavy():
    code = (
        "import sys, leuk_lib.alhe, leuk_lib.alhe.params;"
        "print([m for m in ('torch', 'cv2', 'pandas', 'skimage') if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
