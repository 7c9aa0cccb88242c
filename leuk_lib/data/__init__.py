"""Image data: rendered cells and folders of micrographs, their check, split and loading.

Import from the modules: ``from leuk_lib.data.cellset import CellSet``.
"""
