"""Forest plot, cell types and verdicts as HTML: every number stands where it belongs, text is quoted, nothing is cut."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup, Tag

from leuk_lib.audit import claims
from leuk_lib.chapters import data
from leuk_lib.data.smear.morphology import CELL_TYPES, QUANTITIES, morphology_rows
from leuk_lib.figures.intervals import cell_types, forest
from leuk_lib.figures.verdicts import GROUNDS, verdicts

ROWS = pd.DataFrame(
    [
        ["Does <it> help?", "a over b", 3.0, 1.0, 5.0, "helps", "better", "toy", "05_wpat.ipynb"],
        ["Does <it> help?", "a over c", -2.0, -4.0, 0.0, "inconclusive", "inconclusive", "toy", "05_wpat.ipynb"],
        ["And now?", "a over d", -8.0, -10.0, -6.0, "harms", "worse", "toy", "02_alhe.ipynb"],
    ],
    columns=["question", "compared", "value", "low", "high", "verdict", "read as", "study", "target"],
)


def places(tag: Tag) -> dict[str, float]:
    return {name: float(value) for name, value in re.findall(r"--(\w+):(-?[\d.]+)", tag["style"])}


def test_a_forest_plot_has_each_difference_on_one_axis_with_its_verdict_and_link() -> None:
    page = BeautifulSoup(forest(ROWS, "Toy").markup, "html.parser")
    assert [q.span.text for q in page.select(".leuk-question")] == ["Does <it> help?", "And now?"]
    rows = page.select("li.leuk-row")
    assert [row["class"][1] for row in rows] == ROWS["verdict"].tolist()
    assert [row.select_one("b").text for row in rows] == ["▲", "○", "▼"]
    assert "+3.0 [+1.0, +5.0]" in rows[0].text and "better" in rows[0].text and "worse" in rows[2].text
    assert [q.a["href"] for q in page.select(".leuk-question")] == ["05_wpat.ipynb", "02_alhe.ipynb"]
    axis = page.select_one(".leuk-axis").select(".leuk-range span")
    ticks = {float(label.text.replace("−", "-")): places(label)["at"] for label in axis}
    assert min(ticks) == -10 and max(ticks) >= 5 and len(ticks) <= 7
    scale = (ticks[0.0] - ticks[-10.0]) / 10
    assert places(page.select_one(".leuk-forest"))["zero"] == pytest.approx(ticks[0.0], abs=1e-3)
    for row, (value, low, high) in zip(rows, ROWS[["value", "low", "high"]].to_numpy(), strict=True):
        place = places(row.select_one(".leuk-range"))
        assert place["at"] == pytest.approx(ticks[0.0] + value * scale, abs=1e-3)
        assert place["from"] == pytest.approx(ticks[0.0] + low * scale, abs=1e-3)
        assert place["to"] == pytest.approx(ticks[0.0] + high * scale, abs=1e-3)


@pytest.mark.parametrize(("low", "high"), [(-0.3, 0.2), (0.0, 0.0), (-71.0, 3.0), (2.0, 950.0)])
def test_the_axis_holds_every_interval_and_zero(low: float, high: float) -> None:
    row = ROWS.iloc[[0]].assign(value=(low + high) / 2, low=low, high=high)
    place = places(BeautifulSoup(forest(row, "Toy").markup, "html.parser").select_one("li .leuk-range"))
    assert 0 <= place["from"] <= place["at"] <= place["to"] <= 1


def test_a_few_long_intervals_go_on_beyond_the_axis_and_say_so() -> None:
    rows = pd.concat([*[ROWS] * 8, ROWS.iloc[[0]].assign(value=46.0, low=5.0, high=55.0)], ignore_index=True)
    page = BeautifulSoup(forest(rows, "Toy").markup, "html.parser")
    axis = [float(label.text.replace("−", "-")) for label in page.select_one(".leuk-axis").select(".leuk-range span")]
    assert max(axis) == 5 and "+46.0 [+5.0, +55.0]" in page.text
    (long,) = [row for row in page.select("li.leuk-row") if "+46.0" in row.text]
    place = places(long.select_one(".leuk-range"))
    assert place["to"] == place["at"] < places(long.select_one(".leuk-beyond"))["edge"] < 1
    assert long.b is None and long.select_one(".leuk-beyond").text == "▸"
    assert len(page.select("li.leuk-row b")) == 24 and len(page.select(".leuk-beyond")) == 1
    assert "beyond the axis" in page.select_one(".leuk-key").text
    assert "beyond the axis" not in BeautifulSoup(forest(ROWS, "Toy").markup, "html.parser").text


@pytest.mark.parametrize("rows", [ROWS.iloc[:0], ROWS.assign(low=np.nan)])
def test_a_forest_without_numbers_is_refused(rows: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="forest"):
        forest(rows, "Toy")


def test_each_cell_type_stands_beside_its_ranges() -> None:
    pictures = data.cell_type_pictures(32)
    assert list(pictures) == list(CELL_TYPES)
    assert len({picture.tobytes() for picture in pictures.values()}) == len(CELL_TYPES)
    ranges = pd.DataFrame(list(morphology_rows()))
    page = BeautifulSoup(cell_types(pictures, ranges, data.SHOWN, "Types").markup, "html.parser")
    cards = {card.select_one("strong").text: card for card in page.select(".leuk-type")}
    assert list(cards) == list(CELL_TYPES) and all(
        card.img["src"].startswith("data:image/webp") for card in cards.values()
    )
    for name, card in cards.items():
        for label, bar, text in zip(*[iter(card.select("dt, dd"))] * 3, strict=True):
            (quantity,) = [key for key, shown in data.SHOWN.items() if shown == label.text]
            (field,) = [key for key, text in QUANTITIES.items() if text == quantity]
            limits = getattr(CELL_TYPES[name], field)
            top = max(getattr(other, field).high for other in CELL_TYPES.values())
            assert limits.high > 0
            assert text.text.endswith("*") == (limits.basis == "described") and limits.source == text["title"]
            assert text.text.startswith(f"{limits.low:g}")
            assert places(bar) == pytest.approx({"from": limits.low / top, "to": limits.high / top}, abs=1e-3)
    assert "12–20" in cards["myeloblast"].text


def test_verdicts_have_a_badge_and_a_short_reason_and_the_rest_folds() -> None:
    book = claims.read_claims()
    facts = {"kind": "rendered", "dataset": "smear", "classes": ["ALL", "AML", "CLL", "CML"], "profile": "smoke"}
    table = claims.verdict_table(book, {}, facts, "r")
    page = BeautifulSoup(verdicts(table, claims.KINDS).markup, "html.parser")
    items = page.select("li")
    assert len(items) == len(book.claims) == len(table)
    for item, row in zip(items, table.to_dict("records"), strict=True):
        details = item.details.extract()
        assert row["verdict"] in item.select_one(".leuk-badge").text and row["reason"] in item.text
        assert len(item.select_one(".leuk-values").text) < 200 and details.get("open") is None
        assert all(
            " ".join(row[name].split()) in " ".join(details.text.split())
            for name in ("why", "tested", "tolerance", "evidence")
        )
    assert page.select_one(".leuk-counts").text.strip() == f"? cannot be tested here: {len(items)}"
    assert set(claims.KINDS) == set(claims.VERDICTS) and set(claims.KINDS.values()) == set(GROUNDS)


@pytest.mark.parametrize("colour", GROUNDS.values())
def test_white_text_on_a_badge_can_be_read(colour: str) -> None:
    light = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    light = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in light]
    assert 1.05 / (0.05 + np.dot(light, [0.2126, 0.7152, 0.0722])) > 4.5
