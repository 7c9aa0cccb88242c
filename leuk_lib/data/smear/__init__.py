"""Rendered Giemsa-stained smears: cells with known truth, for use where no real images may be distributed.

From cytology to pixels: ``morphology`` (ranges per cell type, with sources) -> ``individual`` (draws a patient and a
cell) -> ``paint`` and ``field`` (amounts of stain) -> ``optics`` (stain to 8-bit RGB) -> ``cohort`` (many cells, in
parallel). A small set for a test: ``cohort.smear_cells(cells=60, patients=3, size=32, seed=0)``.

Rendered cells show that a method and its code work. They do not show how well leukemia is recognised.
"""

VERSION = "2"  # raised by every change of a pixel; part of the data set's fingerprint
