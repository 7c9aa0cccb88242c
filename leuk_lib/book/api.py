"""The API reference: one page a room, written from the package's tree; Sphinx fills in the docstrings."""

from __future__ import annotations

import pkgutil
from pathlib import Path

ROOMS = {
    "runs": "Parameters, stages, run cards, checkpoints, seeds.",
    "data": "Data sets, splits, rendered smears, loading, augmentation.",
    "alhe": "Adaptive local histogram enhancement and how it is judged.",
    "gan": "The class-balancing GAN: networks, losses, quota, gate, fidelity.",
    "fcmae": "The masked autoencoder: encoder, masks, weights, pretraining.",
    "wpat": "The windowed patch attention classifier and its training.",
    "evaluation": "Metrics, intervals, calibration, robustness, baselines, comparison.",
    "studies": "Experiments too long for a chapter: resumable jobs, committed records.",
    "figures": "Every figure of the book: data frames and arrays in, a matplotlib figure out.",
    "book": "The gate, the generated pages and the build of this book.",
}


def modules_of(package: Path, room: str) -> list[str]:
    """Dotted names of a room's public modules, from the files alone (nothing is imported)."""
    folder = package / room
    names = [found.name for found in pkgutil.iter_modules([str(folder)]) if not found.name.startswith("_")]
    return [f"{package.name}.{room}.{name}" for name in sorted(names)]


def api_page(room: str, modules: list[str]) -> str:
    """The page of one room: a summary table, then every module with its public members."""
    package = f"leuk_lib.{room}"
    lines = [f"# {package}\n", f"{ROOMS.get(room, '')}\n", "```{eval-rst}", ".. autosummary::", ""]
    lines += [f"   {module}" for module in modules] + ["```\n"]
    for module in modules:
        lines += [f"## {module.removeprefix(package + '.')}\n", "```{eval-rst}", f".. automodule:: {module}"]
        lines += [
            "   :members:",
            "   :show-inheritance:",
            "   :member-order: bysource",
            "   :exclude-members: model_config",
        ]
        lines += ["```\n"]
    return "\n".join(lines)


def api_index(rooms: dict[str, list[str]]) -> str:
    """A list of the rooms with links to their pages, for a page in ``book/use/``."""
    rows = [f"- [`leuk_lib.{room}`](../generated/api_{room}.md): {ROOMS.get(room, '')}" for room in rooms]
    return "\n".join(rows) + "\n"
