"""Structures of a rendered cell and its surroundings, one at a time, and the formation of the image."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from leuk_lib.data.smear.field import _red_cell, platelets, precipitate, red_cells
from leuk_lib.data.smear.individual import Cell, draw_cell, draw_patient
from leuk_lib.data.smear.morphology import CLASSES, MIXTURES
from leuk_lib.data.smear.optics import expose, transmit
from leuk_lib.data.smear.paint import paint_cell
from leuk_lib.data.smear.shapes import Canvas

CANVAS = Canvas(256, 25.6)
MIDDLE = np.zeros(2)
PATIENT = draw_patient(0, "AML", 0, effect=0)
PLAIN = Cell(
    kind="myeloblast", nucleus="round", granule="fine", diameter=15.0, nc_ratio=0.6, irregularity=0.03, indentation=0.0,
    lobes=0, cleft=False, density=1.2, clumping=0.1, grain=0.6, nucleoli=0, prominence=0.0, basophilia=0.4,
    eosinophilia=0.15, hof=0.0, azurophil=0.0, specific=0.0, auer=0, vacuoles=0,
)  # fmt: skip


def paint(seed: int = 0, **changes: object):
    return paint_cell(np.random.default_rng(seed), CANVAS, replace(PLAIN, **changes), MIDDLE)


def islands(mask: np.ndarray) -> int:
    return cv2.connectedComponents(mask.astype(np.uint8))[0] - 1


def test_nucleoli_are_pale():
    plain, nucleolated = paint(), paint(nucleoli=2, prominence=0.6)
    inside = cv2.erode(plain.nucleus, np.ones((15, 15))) > 0.9
    assert np.percentile(nucleolated.eosin[inside], 2) < 0.75 * np.percentile(plain.eosin[inside], 2)
    loss = nucleolated.eosin[inside].min() / np.median(nucleolated.eosin[inside])
    assert loss < nucleolated.azure[inside].min() / np.median(nucleolated.azure[inside]), "RNA keeps the blue"


def test_clumping_sets_the_contrast_of_chromatin():
    def contrast(clumping, grain=1.2):
        stain = paint(clumping=clumping, grain=grain)
        inside = cv2.erode(stain.nucleus, np.ones((25, 25))) > 0.9
        return stain.azure[inside].std() / stain.azure[inside].mean()

    assert contrast(0.5) > 2 * contrast(0.1) > 0


def test_lobes_are_connected_by_threads():
    means = []
    for lobes in (2, 3, 5):
        nuclei = [paint(seed, nucleus="lobed", lobes=lobes, nc_ratio=0.28).nucleus > 0.5 for seed in range(12)]
        assert sum(islands(nucleus) == 1 for nucleus in nuclei) >= 10, "a thread breaks only now and then"
        apart = [islands(cv2.erode(nucleus.astype(np.uint8), np.ones((15, 15)))) for nucleus in nuclei]
        assert max(apart) <= lobes
        means.append(np.mean(apart))
    assert 1.2 < means[0] < means[1] < means[2], "threads are thinner than lobes"


def test_a_band_is_a_rod_and_an_indentation_a_bay():
    def solidity(nucleus):
        (outline,) = cv2.findContours((nucleus > 0.5).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
        return cv2.contourArea(outline) / cv2.contourArea(cv2.convexHull(outline))

    assert solidity(paint().nucleus) > 0.97
    assert solidity(paint(indentation=0.7).nucleus) < 0.96
    assert solidity(paint(nucleus="band", nc_ratio=0.28).nucleus) < 0.85


def test_granules_carry_their_stains():
    plain = paint()
    bare = (plain.cell > 0.9) & (plain.nucleus < 0.1)
    orange = paint(specific=200.0, granule="orange")
    assert plain.orange.max() == 0 and orange.orange[bare].mean() > 0.1
    dark = paint(specific=80.0, granule="dark")
    over = plain.nucleus > 0.9
    assert dark.azure[over].std() > 1.5 * plain.azure[over].std(), "a basophil's granules lie over its nucleus"
    fine = paint(specific=150.0)
    assert fine.orange.max() == 0 and fine.eosin[bare].mean() > 1.1 * plain.eosin[bare].mean()
    azurophil = paint(azurophil=40.0)
    assert azurophil.azure[bare].max() > 1.2 * plain.azure[bare].max()


def test_auer_rods_are_long_and_thin():
    for seed in range(6):
        plain, with_rod = paint(seed, nc_ratio=0.4), paint(seed, nc_ratio=0.4, auer=1)
        added = ((with_rod.eosin - plain.eosin) > 0.3).astype(np.uint8)
        outlines = cv2.findContours(added, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
        sides = [sorted(cv2.minAreaRect(o)[1]) for o in outlines if cv2.contourArea(o) > 10]
        assert sides and max(long / max(short, 1) for short, long in sides) > 2.2
    for label in CLASSES:
        rng = np.random.default_rng(0)
        rods = [draw_cell(rng, draw_patient(0, label, 0)).auer for _ in range(300)]
        assert (max(rods) > 0) == (label == "AML")


def test_a_smudge_cell_has_no_cytoplasm_and_vacuoles_are_holes():
    smudge = paint(nucleus="smudge", density=0.7)
    assert np.array_equal(smudge.cell, smudge.nucleus) and smudge.orange.max() == 0
    plain, holes = paint(nc_ratio=0.4), paint(nc_ratio=0.4, vacuoles=5)
    bare = (cv2.erode(plain.cell, np.ones((15, 15))) > 0.9) & (plain.nucleus < 0.1)
    assert np.percentile(holes.azure[bare], 1) < 0.7 * np.percentile(plain.azure[bare], 1)


def test_the_field_holds_red_cells_platelets_and_precipitate():
    rng = np.random.default_rng(1)
    thickness = red_cells(rng, CANVAS, replace(PATIENT, red_cells=1.5, pallor=0.8), np.array([50.0, 50.0]), 5.0)
    assert np.isfinite(thickness).all() and 0.15 < (thickness > 0.2).mean() < 0.95
    alone = Canvas(128, 12.8)
    one = np.zeros((128, 128), np.float32)
    _red_cell(one, alone, np.zeros(2), 3.6, np.zeros(4), 0.8)
    assert one[64, 64] < 0.4 * one[64, 64 + 27] and one[64, 64 + 40] == 0, (
        "pale in the middle, thick at 3/4, then glass"
    )
    assert (platelets(rng, CANVAS, replace(PATIENT, platelets=9.0), MIDDLE, 3.0) > 0.2).any()
    assert any(precipitate(np.random.default_rng(seed), CANVAS).max() > 0.3 for seed in range(6))
    for draw in (red_cells, platelets):
        crowded = replace(PATIENT, red_cells=3.0, platelets=20.0)
        near = np.hypot(*np.meshgrid(CANVAS.axis, CANVAS.axis)) < 4.0
        assert draw(rng, CANVAS, crowded, MIDDLE, 8.0)[near].max() < 0.2, "the white cell stays free"


def test_light_obeys_beer_and_lambert():
    a, e, o = (np.random.default_rng(s).uniform(0, 1, (8, 8)).astype(np.float32) for s in range(3))
    clear = replace(PATIENT, haze=0.0)
    once, twice = transmit(a, e, o, clear), transmit(2 * a, 2 * e, 2 * o, clear)
    assert np.allclose(once**2, twice, rtol=1e-4)
    nothing = np.zeros((4, 4), np.float32)
    assert np.allclose(transmit(nothing, nothing, nothing, clear), 1)
    blue = transmit(np.ones((1, 1), np.float32), nothing[:1, :1], nothing[:1, :1], clear)[0, 0]
    pink = transmit(nothing[:1, :1], np.ones((1, 1), np.float32), nothing[:1, :1], clear)[0, 0]
    assert blue.argmin() == 0 and pink.argmin() == 1, "azure absorbs red light, eosin green light"


def test_the_camera_blurs_shades_adds_noise_and_compresses():
    quiet = replace(
        PATIENT, blur_um=0.08, sharpen=0.0, noise=0.0, glare=0.0, jpeg_quality=98, slope=(0.0, 0.0), vignette=0.0
    )
    step = np.ones((128, 128, 3), np.float32)
    step[:, 64:] = 0.3
    canvas = Canvas(128, 25.6)

    def shoot(light=step, **changes):
        return expose(np.random.default_rng(0), light, canvas, replace(quiet, **changes), 128).astype(float)

    edge = np.abs(np.diff(shoot()[64, :, 1])).max()
    assert np.abs(np.diff(shoot(blur_um=0.6)[64, :, 1])).max() < 0.5 * edge
    flat = np.full((128, 128, 3), 0.6, np.float32)
    assert shoot(flat).std(axis=(0, 1)).max() < 1 < shoot(flat, noise=0.02).std(axis=(0, 1)).min()
    shaded = shoot(flat, slope=(0.1, 0.0))
    assert shaded[:, -8:].mean() - shaded[:, :8].mean() == pytest.approx(0.2 * 0.6 * 255 * 0.93, rel=0.15)
    round_ = shoot(flat, vignette=0.2)
    assert round_[60:68, 60:68].mean() > round_[:8, :8].mean() + 10
    assert shoot(flat, glare=0.3).mean() > shoot(flat).mean() + 15
    textured = np.random.default_rng(0).uniform(0.2, 0.9, (128, 128, 3)).astype(np.float32)
    assert np.abs(shoot(textured, jpeg_quality=40) - shoot(textured)).mean() > 5


def test_normal_cells_occur_in_every_class():
    for label in CLASSES:
        assert {"lymphocyte", "segmented neutrophil"} & set(MIXTURES[label][0]), label
