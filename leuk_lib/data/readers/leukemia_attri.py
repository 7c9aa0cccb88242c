"""Reader of LeukemiaAttri: boxes whose fields are squeezed, with the diagnosis in their names.

The published sample fields (ten of one slide) show red cells 0.55 times as wide as high (median of 168, quartiles .51 and
.63), which fits fields of 16:9 that were resized to a square: 0.5625. Descriptions of the set say 0.60.
"""

from __future__ import annotations

from typing import ClassVar

from leuk_lib.data.readers.boxes import Boxes


class LeukemiaAttri(Boxes):
    """Reads one magnification and camera of LeukemiaAttri (COCO); the class is the diagnosis or the cell type."""

    name = "leukemia-attri"
    title = "LeukemiaAttri: boxes in squeezed fields of view; the diagnosis is in their names"
    aspect: ClassVar[float] = 0.5625
    tasks: ClassVar[tuple[str, ...]] = ("diagnosis", "cell-type")

    def recognises(self, path: object) -> bool:
        """Return False: its folders are recognised as boxes, which asks for the task."""
        return False


READER = LeukemiaAttri()
