"""Small sets with classes of their own: patients left out, frozen features, patients required."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import timm
import torch

from leuk_lib.evaluation.baselines import colour_histogram
from leuk_lib.fcmae.encoder import build_encoder
from leuk_lib.runs.errors import LeukError
from leuk_lib.studies.paired import Outcomes, cells_of, scores
from leuk_lib.studies.small_sets import frozen_features, leave_patients_out, small_cells, small_row
from leuk_lib.training.augment import normalise
from leuk_lib.training.pretrained import OwnInput
from leuk_lib.wpat.linear_head import LinearClassifier


def test_no_patient_is_tested_with_their_own_cells():
    """Features that encode the patient only: no cell of a patient left out can be recognised."""
    groups = [str(k // 5) for k in range(40)]
    labels = ["a" if int(g) % 2 else "b" for g in groups]
    features = np.eye(8)[[int(g) for g in groups]]
    assert not leave_patients_out(features, labels, groups).any()
    telling = np.array([[label == "a"] for label in labels], dtype=float)
    assert leave_patients_out(telling, labels, groups).all()


def test_features_of_every_kind_of_model():
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    encoder = build_encoder("zepto", 1, generator=torch.Generator().manual_seed(0))
    ours = frozen_features(LinearClassifier(encoder, 2), images)
    with torch.no_grad():
        maps = encoder.eval()(normalise(images))
    np.testing.assert_allclose(ours, torch.cat([level.mean((2, 3)) for level in maps], dim=1), rtol=1e-4, atol=1e-5)
    network = timm.create_model("test_resnet", num_classes=2)
    features = frozen_features(network, images)
    assert features.shape == (3, network.num_features)
    with torch.no_grad():  # they are what the classifier reads
        logits = network.eval()(normalise(images)).double()
        read = network.get_classifier().double()(torch.from_numpy(features))
    torch.testing.assert_close(read, logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(frozen_features(None, images), colour_histogram(images))
    half = OwnInput(network.float(), 16, (0.5,) * 3, (0.5,) * 3)  # published weights come with an input of their own
    features = frozen_features(half, images)
    with torch.no_grad():
        logits = half.eval()(normalise(images)).double()
        read = network.get_classifier().double()(torch.from_numpy(features))
    torch.testing.assert_close(read, logits, rtol=1e-4, atol=1e-5)


def folder_of(root: Path, groups: bool) -> Path:
    rng = np.random.default_rng(0)
    rows = ["path,label,group"]
    for k in range(16):
        name = f"{'dark' if k % 2 else 'light'}/{k}.png"
        (root / "cells" / name).parent.mkdir(parents=True, exist_ok=True)
        shade = np.clip(rng.normal(60 if k % 2 else 190, 20, (40, 40, 3)), 0, 255).astype(np.uint8)
        cv2.imwrite(str(root / "cells" / name), shade)
        rows.append(f"{name},{'dark' if k % 2 else 'light'},patient{k % 8}")
    if groups:
        (root / "cells" / "manifest.csv").write_text("\n".join(rows))
    return root / "cells"


def test_a_set_is_read_tested_and_tabled(tmp_path):
    images, labels, groups = small_cells(folder_of(tmp_path, groups=True), 32, 1)
    assert len(images) == 16 and set(labels) == {"dark", "light"} and len(set(groups)) == 8
    rows = [small_row("cells", None, images, labels, groups) | {"arm": arm, "seed": 0} for arm in ("a", "b")]
    table = scores(Outcomes(cells_of(rows), 100, 0))
    assert (table["value"] == 1).all() and (table["groups"] == 8).all() and table["condition"][0] == "small cells"


def test_a_set_without_patients_is_refused(tmp_path):
    with pytest.raises(LeukError, match="needs a column group"):
        small_cells(folder_of(tmp_path, groups=False), 32, 1)


def test_patients_of_cnmc_are_known(real_data):
    images, labels, groups = small_cells(real_data / "cnmc2019", 32, 1)
    assert len(images) == 42 and labels.count("ALL") == 21 and 20 <= len(set(groups)) < 42
