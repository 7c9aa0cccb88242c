"""Cells: rendered smears and folders of micrographs, their check, split, loading and augmentation.

Import from the modules: ``from leuk_lib.data.cellset import CellSet``.
"""
