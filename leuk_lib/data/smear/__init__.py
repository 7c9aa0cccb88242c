"""The rendered Giemsa-stained smear: cells of known truth where no real set may be shipped.

From cytology to pixels: ``morphology`` (what a class looks like, with sources) -> ``individual`` (draws a patient and
a cell) -> ``paint`` and ``field`` (amounts of stain over the field) -> ``optics`` (stain to 8-bit RGB) -> ``cohort``
(many cells, many processes). A small set for a test: ``cohort.smear_cells(cells=60, patients=3, size=32, seed=0)``.

Rendered cells show that the method and the code work, not how well leukemia is recognised.
"""

VERSION = "2"  # raise it with every change that alters a pixel: the data set's fingerprint depends on it
