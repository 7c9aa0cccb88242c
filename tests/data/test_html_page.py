"""Pages that load nothing: names are quoted, and a picture is the whole image."""

from __future__ import annotations

import base64
import re

import cv2
import numpy as np
import pytest

from leuk_lib.data.html_page import html_page, picture


@pytest.mark.parametrize(("shape", "size"), [((40, 80), (30, 15)), ((8, 2), (8, 30)), ((30, 30), (30, 30))])
def test_a_picture_is_the_whole_image_in_its_colours(shape: tuple[int, int], size: tuple[int, int]):
    image = np.zeros((*shape, 3), np.uint8)
    image[..., 0] = 220  # red
    element = picture(image, 30, '<b>"')
    code = re.search(r'src="data:image/jpeg;base64,([^"]+)" width="(\d+)" height="(\d+)" alt="([^"]*)"', element)
    assert code is not None and (int(code[2]), int(code[3])) == size and "<b>" not in code[4]
    shown = cv2.imdecode(np.frombuffer(base64.b64decode(code[1]), np.uint8), cv2.IMREAD_COLOR_RGB)
    assert shown.shape == (size[1], size[0], 3) and abs(shown.mean(axis=(0, 1)) - [220, 0, 0]).max() < 4


def test_a_title_is_text_and_nothing_is_loaded():
    page = html_page("<i>cells</i>", "p{margin:0}", "<p>x</p>")
    assert "<title>&lt;i&gt;" in page and "<p>x</p>" in page and not re.search(r"(src|href|url)\b", page)
