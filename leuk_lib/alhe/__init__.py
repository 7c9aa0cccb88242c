"""ALHE, Adaptive Local Histogram Enhancement: CLAHE with a clip limit per tile and a gain that spares the background.

In the order of the method: ``tiles`` (grid, histograms), ``activity`` (clip limit of each tile), ``lut`` (clipping,
redistribution, look-up tables, interpolation), ``gain`` (optical density) and ``colour`` (CIELAB lightness). ``enhance``
puts them together for one NumPy image, ``torch_alhe`` for batches. ``quality`` measures an enhancement, and
``baselines`` holds the usual ones.

>>> from leuk_lib.alhe import alhe  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leuk_lib.alhe.enhance import alhe

__all__ = ["alhe"]


def __getattr__(name: str) -> Any:
    # OpenCV is loaded only when the function is used.
    if name == "alhe":
        from leuk_lib.alhe.enhance import alhe

        return alhe
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
