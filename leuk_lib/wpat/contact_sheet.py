"""A contact sheet of predictions: one HTML page that loads nothing, with each image, its attention map and probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from leuk_lib import quoting
from leuk_lib.data.html_page import html_page, picture
from leuk_lib.data.image_lists import Unusable
from leuk_lib.runs.display import RESEARCH_USE
from leuk_lib.wpat.predict import ModelCard, Predicted

MAX_IMAGES = 400  # on a page
SIDE = 128  # of a picture, pixels
SCREENFUL = 24  # images from which on the warning is repeated below them
RANKED = 4  # classes whose probabilities are shown
STRENGTH = 0.6  # of the attention's colour where attention is strongest

STYLE = """
body{max-width:80rem}
ul.cells{list-style:none;padding:0;display:grid;grid-template-columns:repeat(auto-fill,minmax(17rem,1fr));gap:1rem}
ul.cells li{border:1px solid GrayText;border-radius:.4rem;padding:.5rem;overflow-wrap:anywhere}
table{border-collapse:collapse}th,td{text-align:left;padding:.1rem .6rem .1rem 0;font-weight:normal}
tr:first-child>*{font-weight:600}
.warning{border-left:.3rem solid #c0392b;padding-left:.6rem}
@media print{ul.cells li{break-inside:avoid}}
"""


def contact_sheet(
    shown: Sequence[Predicted], card: ModelCard, model: Path, unusable: Sequence[Unusable], total: int
) -> str:
    """Render predictions as one HTML page.

    Args:
        shown: Batches of predictions, of which the first ``MAX_IMAGES`` images are shown.
        card: The model's card.
        model: The model file.
        unusable: Files that gave no image; all are listed.
        total: Number of images that were predicted.
    """
    cells = [cell for part in shown for cell in _cells(part, card.classes)][:MAX_IMAGES]
    maps = any(part.attention is not None for part in shown)
    about = [f"{total} images, predicted by {model.name} ({model})."]
    if total > len(cells):
        about.append(f"The first {len(cells)} are shown.")
    if card.enhanced:
        about.append("The images are shown as the model got them: enhanced by ALHE.")
    about.append(
        "Beside each image: where the attention of the predicted class lies, yellow where it is strongest. It shows what "
        "the class query reads, not why the class was chosen."
        if maps
        else "A model of this kind has no attention maps."
    )
    bad = ""
    if unusable:
        rows = "".join(f"<li>{quoting.html(file)}: {quoting.html(reason)}</li>" for file, reason in unusable)
        bad = f"<h2>{len(unusable)} files that could not be used</h2><ul>{rows}</ul>"
    warning = f'<p class="warning"><strong>{quoting.html(RESEARCH_USE)}</strong> {quoting.html(card.use)}.</p>'
    body = (
        f"<h1>Predictions</h1>{warning}<p>{quoting.html(' '.join(about))}</p>"
        f'<ul class="cells">{"".join(cells)}</ul>{bad}{warning if len(cells) > SCREENFUL else ""}'
    )
    return html_page("Predictions: research only, not a medical device", STYLE, body)


def _cells(part: Predicted, classes: Sequence[str]) -> list[str]:
    images = part.images.permute(0, 2, 3, 1).cpu().numpy()
    out = []
    for position, (file, image, probs) in enumerate(zip(part.files, images, part.probabilities, strict=True)):
        pictures = picture(image, SIDE, f"the cell of {file.name}")
        if part.attention is not None:
            pictures += picture(overlay(image, part.attention[position]), SIDE, f"attention in {file.name}")
        ranked = np.argsort(-probs, kind="stable").tolist()[:RANKED]
        rows = "".join(
            f'<tr><th scope="row">{quoting.html(classes[k])}</th><td>{100 * probs[k]:.1f} %</td></tr>' for k in ranked
        )
        out.append(f"<li>{pictures}<table>{rows}</table><small>{quoting.html(file)}</small></li>")
    return out


def overlay(image: NDArray[np.uint8], attention: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Colour an image by an attention map.

    Args:
        image: (S,S,3) uint8 RGB.
        attention: (S,S), non-negative.

    Returns:
        (S,S,3) uint8: the grey image, violet to yellow where attention is weak to strong.
    """
    share = attention / max(float(attention.max()), 1e-12)
    colour = cv2.applyColorMap((255 * share).astype(np.uint8), cv2.COLORMAP_VIRIDIS)[..., ::-1]
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    weight = STRENGTH * np.sqrt(share)[..., None]
    return np.rint(grey * (1 - weight) + colour * weight).astype(np.uint8)
