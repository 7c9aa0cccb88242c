"""The model file: written and read back, refused when foreign or damaged; predictions of image files."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from leuk_lib.fcmae.encoder import build_encoder
from leuk_lib.runs.errors import LeukError
from leuk_lib.wpat.model import WPAT
from leuk_lib.wpat.predict import describe, load_model, predict_files, probabilities, read_card, save_model
from wpat.toys import blobs

CLASSES = ("ALL", "AML", "none of them")


@pytest.fixture
def saved(tiny, tmp_path):
    """A model file, its model; raw images."""
    torch.manual_seed(0)
    model = WPAT(build_encoder("zepto", 2), 3, tiny).eval()
    card = describe(model, CLASSES, tiny, 32, None, temperature=1.7)
    return save_model(model, card, tmp_path), model


@pytest.fixture
def files(tmp_path):
    """Three image files of different sizes and kinds."""
    images, _, _ = blobs(3, size=40)
    paths = [tmp_path / "a cell.png", tmp_path / "b.jpg", tmp_path / "c.png"]
    for path, image in zip(paths, images.permute(0, 2, 3, 1).numpy(), strict=True):
        Image.fromarray(image).save(path)
    return paths


def test_round_trip_and_same_bytes(saved, tmp_path):
    path, model = saved
    again, card = load_model(path)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(again(x), model(x)) and not again.training
    assert card.classes == CLASSES and card.temperature == 1.7 and card.image_size == 32
    copies = [save_model(again, card, tmp_path / str(i)).read_bytes() for i in range(6)]
    assert set(copies) == {path.read_bytes()}


def test_files_to_probabilities(saved, files):
    path, _model = saved
    table = predict_files(files, path)
    assert list(table.columns) == ["file", *CLASSES, "predicted"]
    values = table[list(CLASSES)].to_numpy()
    np.testing.assert_allclose(values.sum(axis=1), 1, atol=1e-5)
    assert table["predicted"].tolist() == [CLASSES[k] for k in values.argmax(axis=1)]
    alone = predict_files(files[1:2], path)
    np.testing.assert_allclose(alone[list(CLASSES)].to_numpy()[0], values[1], atol=1e-5)


def test_temperature_flattens(saved):
    _, model = saved
    images, _, _ = blobs(4)
    assert float(probabilities(model, images, 4.0).max()) < float(probabilities(model, images, 0.5).max())


def test_enhancement_is_applied_when_and_only_when_trained_with_it(saved, files, tiny, tmp_path):
    path, model = saved
    with pytest.raises(LeukError, match="not enhanced"):
        predict_files(files, path, enhance=lambda image: image)
    card = describe(model, CLASSES, tiny, 32, {"kappa_max": 2.5}, 1.0)
    enhanced = save_model(model, card, tmp_path / "enhanced")
    assert read_card(enhanced).alhe_settings == {"kappa_max": 2.5}
    with pytest.raises(LeukError, match="enhanced by ALHE"):
        predict_files(files, enhanced)
    shapes = []

    def enhance(image):
        shapes.append((image.shape, image.dtype))
        return 255 - image

    table = predict_files(files, enhanced, enhance)
    assert shapes == [((32, 32, 3), np.uint8)] * 3
    assert not np.allclose(table[list(CLASSES)].to_numpy(), predict_files(files, path)[list(CLASSES)].to_numpy())


@pytest.mark.parametrize("harm", ["missing", "text", "cut", "foreign", "other card", "renamed key", "broken json"])
def test_foreign_and_damaged_files_are_one_line(saved, tmp_path, harm):
    path, _ = saved
    bad = tmp_path / "bad.safetensors"
    if harm == "text":
        bad.write_text("no model")
    elif harm == "cut":
        bad.write_bytes(path.read_bytes()[:-1000])
    elif harm == "foreign":
        save_file({"x": torch.zeros(1)}, bad)
    elif harm == "broken json":
        save_file({"x": torch.zeros(1)}, bad, metadata={"card": "{"})
    elif harm != "missing":
        tensors = load_file(path)
        card = {"format": "leuk_lib.wpat.model/1"} | dict(vars(read_card(path)).items())
        if harm == "other card":
            card["variant"] = "atto"
        else:
            tensors["stranger"] = tensors.pop("queries")
        save_file(tensors, bad, metadata={"card": json.dumps(card)})
    with pytest.raises(LeukError) as caught:
        load_model(bad)
    assert str(bad) in str(caught.value) and "\n" not in str(caught.value) and caught.value.exit_code == 2


def test_a_bad_image_is_named(saved, files, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(files[0].read_bytes()[:100])
    with pytest.raises(LeukError, match=r"bad\.png"):
        predict_files([files[0], bad], saved[0])
    with pytest.raises(LeukError, match="no image"):
        predict_files([], saved[0])
