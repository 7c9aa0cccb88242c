"""ALHE, Adaptive Local Histogram Enhancement: contrast for the cell, none for the background.

`enhance` is the method for one NumPy image, `torch_alhe` for batches; `tiles`, `lut` and `gain` are its three
ideas; `quality` measures it on known masks beside the `peers`.

>>> from leuk_lib.alhe import alhe  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leuk_lib.alhe.enhance import alhe

__all__ = ["alhe"]


def __getattr__(name: str) -> Any:
    # OpenCV is only loaded once somebody asks for the function.
    if name == "alhe":
        from leuk_lib.alhe.enhance import alhe

        return alhe
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
