"""The model file: round trip, earlier format, damaged and foreign files; predictions of image files."""

import io
import json
import struct
import zlib
from dataclasses import asdict

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from damage import survives
from leuk_lib.data.decode import decode_file, square
from leuk_lib.fcmae.encoder import build_encoder
from leuk_lib.runs.errors import LeukError
from leuk_lib.training.augment import normalise
from leuk_lib.training.backbones import TimmBackbone
from leuk_lib.training.pretrained import NetworkSpec, create
from leuk_lib.wpat import predict
from leuk_lib.wpat.export import deployed
from leuk_lib.wpat.linear_head import LinearClassifier
from leuk_lib.wpat.model import WPAT, format_1_name
from leuk_lib.wpat.predict import (
    FORMAT,
    LoadedModel,
    chosen_device,
    describe,
    load_model,
    predict_batches,
    predict_files,
    probabilities,
    read_card,
    save_model,
)
from wpat.toys import blobs

CLASSES = ("ALL", "AML", "none of them")


@pytest.fixture
def saved(tiny, tmp_path):
    """A model file and its model, trained on raw images."""
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


def test_a_file_of_format_1_gives_the_same_model(saved, tmp_path):
    path, model = saved
    tensors = {format_1_name(name): value for name, value in load_file(path).items()}
    assert {"scale_embedding", "ask.q.weight", "latent_steps.0.talk.q.weight"} <= set(tensors)
    sizes = read_card(path).sizes
    sizes["scales"], sizes["pairs"], sizes["pooled"] = (sizes.pop(name) for name in ("levels", "depth", "linear_head"))
    card = {"format": "leuk_lib.wpat.model/1"} | asdict(read_card(path)) | {"sizes": sizes}
    card |= card.pop("backbone")
    del card["kind"]
    earlier = tmp_path / "earlier.safetensors"
    save_file(tensors, earlier, metadata={"card": json.dumps(card)})
    again, card_again = load_model(earlier)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(again(x), model(x)) and card_again == read_card(path)


@pytest.mark.parametrize("kind", ["wpat", "linear", "network"])
def test_every_kind_of_model_is_read_back(kind, tiny, tmp_path):
    torch.manual_seed(0)
    if kind == "network":
        model = create("test_resnet", None, 3, 32)
    else:
        backbone = TimmBackbone(NetworkSpec.of("test_resnet", 32, pretrained=True), 32)
        model = WPAT(backbone, 3, tiny) if kind == "wpat" else LinearClassifier(backbone, 3)
    model.eval()
    path = save_model(model, describe(model, CLASSES, tiny, 32, None, temperature=1.0), tmp_path)
    again, card = load_model(path)
    x = torch.randn(2, 3, 32, 32)
    assert card.kind == kind and torch.equal(again(x), model(x))


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
    card = describe(model, CLASSES, tiny, 32, {"clip_limit": 2.5}, 1.0)
    enhanced = save_model(model, card, tmp_path / "enhanced")
    assert read_card(enhanced).alhe_settings == {"clip_limit": 2.5}
    with pytest.raises(LeukError, match="enhanced by ALHE"):
        predict_files(files, enhanced)
    shapes = []

    def enhance(images):
        shapes.append((tuple(images.shape), images.dtype))
        return 255 - images

    table = predict_files(files, enhanced, enhance)
    assert shapes == [((3, 3, 32, 32), torch.uint8)]
    assert not np.allclose(table[list(CLASSES)].to_numpy(), predict_files(files, path)[list(CLASSES)].to_numpy())


@pytest.mark.parametrize(
    "harm", ["missing", "text", "cut", "foreign", "other format", "other card", "renamed key", "broken json"]
)
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
        card = {"format": FORMAT} | asdict(read_card(path))
        if harm == "other format":
            card["format"] = "leuk_lib.wpat.model/99"
        elif harm == "other card":
            card["backbone"]["variant"] = "atto"
        else:
            tensors["stranger"] = tensors.pop("queries")
        save_file(tensors, bad, metadata={"card": json.dumps(card)})
    with pytest.raises(LeukError) as caught:
        load_model(bad)
    assert str(bad) in str(caught.value) and "\n" not in str(caught.value) and caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sizes", None), ("sizes", {"dim": 0}), ("sizes", {"width": 8}), ("temperature", 0), ("temperature", "x"),
        ("temperature", -1.0), ("temperature", float("nan")), ("temperature", float("inf")), ("image_size", 0),
        ("image_size", 4096), ("classes", []), ("classes", ["x"] * 1001), ("mean", [0.5, 0.5, float("nan")]),
        ("std", [0.2, 0.2, 0.0]), ("std", [0.2, 0.2, float("inf")]), ("sizes", {"dim": 1024, "depth": 12}),
        ("classes", None), ("mean", [0.5, 0.5]), ("backbone", {"variant": "zepto", "stem_stride": 16}), ("backbone", {"variant": "huge", "stem_stride": 2}),
        ("backbone", {}), ("backbone", {"architecture": "resnet1", "side": 32}),
        ("backbone", {"architecture": "test_resnet", "side": 10**6}), ("backbone", {"architecture": "test_resnet", "side": 32, "std": [1, 0, 1]}),
        ("backbone", {"architecture": "test_vit", "side": 32, "settings": {"embed_dim": 10**8}}), ("kind", "forest"), ("kind", "network"),
        ("alhe_settings", []), ("origin", {"x": [float("nan")]}),
        ("stranger", 1),
    ],
)  # fmt: skip
def test_a_card_with_an_impossible_value_is_one_line(saved, tmp_path, field, value):
    path, _ = saved
    card = {"format": FORMAT} | asdict(read_card(path)) | {field: value}
    bad = tmp_path / "bad.safetensors"
    save_file(load_file(path), bad, metadata={"card": json.dumps(card)})
    with pytest.raises(LeukError, match=r"bad\.safetensors: (its card|card and weights)") as caught:
        load_model(bad)
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("old", "new"), [("0.485", "0.405"), ('"temperature": 1.7', '"temperature": 1.3'), ('"enhanced": false', '"enhanced":  true')]
)  # fmt: skip
def test_a_card_with_one_changed_character_is_refused(saved, tmp_path, old, new):
    """The checksum covered the weights only: a mean, a temperature or the order of classes gave other probabilities."""
    path, _ = saved
    quoted = [text.replace('"', '\\"').encode() for text in (old, new)]
    content = path.read_bytes()
    assert content.count(quoted[0]) == 1
    (tmp_path / "bad.safetensors").write_bytes(content.replace(*quoted))
    with pytest.raises(LeukError, match=r"bad\.safetensors: .*its metadata") as caught:
        load_model(tmp_path / "bad.safetensors")
    assert caught.value.exit_code == 2 and str(caught.value).count("bad.safetensors") == 1


def test_classes_in_another_order_are_refused(saved, tmp_path):
    path, _ = saved
    with safe_open(path, framework="pt") as file:
        card = json.loads(file.metadata()["card"])
    bad = tmp_path / "bad.safetensors"
    save_file(load_file(path), bad, metadata={"card": json.dumps(card | {"classes": card["classes"][::-1]})})
    with pytest.raises(LeukError, match="the checksum of its metadata is wrong"):
        load_model(bad)


def test_the_mean_and_deviation_of_the_card_are_used(saved, files, tmp_path):
    """By predictions and exports alike."""
    path, _ = saved
    card = {"format": FORMAT} | asdict(read_card(path)) | {"mean": [0.1, 0.5, 0.9], "std": [0.5, 0.1, 0.2]}
    other = tmp_path / "other.safetensors"
    save_file(load_file(path), other, metadata={"card": json.dumps(card)})
    values = predict_files(files, other)[list(CLASSES)].to_numpy()
    images = np.stack([square(decode_file(file).image, 32) for file in files]).transpose(0, 3, 1, 2) / 255
    with torch.no_grad():
        expected = deployed(other)(torch.from_numpy(images).float())[1].numpy()
    np.testing.assert_allclose(values, expected, atol=1e-5)
    assert np.abs(values - predict_files(files, path)[list(CLASSES)].to_numpy()).max() > 1e-4


def test_a_file_whose_probabilities_are_not_finite_is_named(saved, files, monkeypatch):
    path, model = saved
    with torch.no_grad():
        model.head_weight.fill_(3e38)
    save_model(model, read_card(path), path.parent)
    with pytest.raises(LeukError, match=r"a cell\.png are not finite") as caught:
        predict_files(files, path)
    assert caught.value.exit_code == 2


def test_many_files_are_predicted_in_parts(saved, files, monkeypatch):
    whole = predict_files(files * 3, saved[0])
    monkeypatch.setattr(predict, "BATCH_PIXELS_CPU", 2 * 32 * 32)
    parts = predict_files(files * 3, saved[0])
    np.testing.assert_allclose(parts[list(CLASSES)], whole[list(CLASSES)], atol=1e-6)


@pytest.mark.parametrize("on_cpu", [True, False], ids=["whole batches", "as for a GPU"])
@pytest.mark.parametrize("workers", [2, 5])
def test_several_batches_at_a_time_give_the_same_in_the_same_order(saved, files, monkeypatch, workers, on_cpu):
    loaded = LoadedModel.open(saved[0])
    alone = list(predict_batches(files * 4, loaded, batch=1, workers=1))
    monkeypatch.setattr(predict, "_is_on_cpu", lambda model: on_cpu)
    together = list(predict_batches(files * 4, loaded, batch=1, workers=workers))
    assert [part.files for part in together] == [part.files for part in alone] == [[file] for file in files * 4]
    for one, other in zip(alone, together, strict=True):
        assert one.images.equal(other.images)
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-6)


def test_workers_share_the_threads_and_give_them_back(saved, files, monkeypatch):
    before, seen, read = torch.get_num_threads(), [], predict._read_image
    monkeypatch.setattr(predict, "_read_image", lambda *of: seen.append(torch.get_num_threads()) or read(*of))
    torch.set_num_threads(4)
    try:
        loaded = LoadedModel.open(saved[0])
        list(predict_batches(files, loaded, batch=1, workers=2))
        assert set(seen) == {2} and torch.get_num_threads() == 4
        seen.clear()
        list(predict_batches(files, loaded, workers=4))  # a single batch
        assert set(seen) == {4}
        stopped = predict_batches(files, loaded, batch=1, workers=3)
        next(stopped)
        stopped.close()
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("harm", ["cut JPEG", "LZW", "deflate", "half a PNG"])
def test_images_with_damaged_pixels_are_refused(saved, tmp_path, harm, capfd):
    rgb = blobs(1, size=64)[0][0].permute(1, 2, 0).numpy()
    stream = io.BytesIO()
    if harm == "cut JPEG":
        Image.fromarray(rgb).save(stream, "JPEG", quality=95)
        data = stream.getvalue()[: stream.tell() // 2] + b"\xff\xd9"
    elif harm == "half a PNG":
        chunks = Image.fromarray(rgb[..., 0]), io.BytesIO()
        chunks[0].save(chunks[1], "PNG")
        row = bytes(1 + 64) * 32
        head, body = chunks[1].getvalue()[:33], b"IDAT" + zlib.compress(row)
        end = b"\0\0\0\0IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
        data = head + struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body)) + end
    else:
        Image.fromarray(rgb).save(stream, "TIFF", compression="tiff_lzw" if harm == "LZW" else "tiff_adobe_deflate")
        changed = bytearray(stream.getvalue())
        changed[500:524] = b"\x5a" * 24
        data = bytes(changed)
    bad = tmp_path / "bad.png"
    bad.write_bytes(data)
    with pytest.raises(LeukError, match="damaged") as caught:
        predict_files([bad], saved[0])
    assert str(bad) in str(caught.value) and "\n" not in str(caught.value) and capfd.readouterr().err == ""


def test_damaged_bytes_are_one_line(saved):
    """And none are taken in with other weights."""
    weights = saved[1].state_dict()
    for model, _ in survives(load_model, saved[0], times=12):
        assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_weights_of_a_diverged_training_are_refused(saved):
    path, model = saved
    with torch.no_grad():
        model.queries[0, 0] = float("nan")
    save_model(model, read_card(path), path.parent)
    with pytest.raises(LeukError, match="queries has NaN"):
        load_model(path)


def test_a_bad_image_is_named(saved, files, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(files[0].read_bytes()[:100])
    with pytest.raises(LeukError, match=r"bad\.png"):
        predict_files([files[0], bad], saved[0])
    with pytest.raises(LeukError, match="no image"):
        predict_files([], saved[0])


def test_bad_files_do_not_stop_the_others(saved, files, tmp_path):
    bad, gone = tmp_path / "bad.png", tmp_path / "gone.png"
    bad.write_bytes(files[0].read_bytes()[:100])
    batches = list(predict_batches([gone, files[0], bad, *files[1:]], LoadedModel.open(saved[0]), batch=2))
    assert [part.files for part in batches] == [[files[0]], [files[1]], [files[2]]]
    assert [item.file for part in batches for item in part.unusable] == [str(gone), str(bad)]
    assert "truncated" in batches[1].unusable[0].reason
    together = predict_files(files, saved[0])
    probs = np.concatenate([part.probabilities for part in batches])
    np.testing.assert_allclose(probs, together[list(CLASSES)].to_numpy(), atol=1e-6)


def test_attention_is_that_of_the_predicted_class_for_the_first_images_only(saved, files):
    path, model = saved
    first, second = predict_batches(files, LoadedModel.open(path), batch=2, attention=1)
    assert second.attention is None and first.attention.shape == (2, 32, 32)
    np.testing.assert_allclose(first.attention.sum(axis=(1, 2)), 1, rtol=1e-5)
    with torch.no_grad():
        logits, maps = model(normalise(first.images), return_attention=True)
    expected = torch.stack([maps[i, k] for i, k in enumerate(logits.argmax(dim=1))])
    np.testing.assert_allclose(first.attention, expected.numpy(), atol=1e-7)
    np.testing.assert_allclose(first.probabilities, (logits / 1.7).softmax(dim=1).numpy(), atol=1e-6)


def test_a_device_that_is_not_there_is_one_line():
    assert chosen_device("cpu").type == "cpu" and chosen_device("auto").type in ("cpu", "cuda")
    for name in ("cuda:77", "abacus"):
        with pytest.raises(LeukError, match=f"device '{name}' cannot be used .* try --device cpu") as caught:
            chosen_device(name)
        assert caught.value.exit_code == 2 and "\n" not in str(caught.value)


def _write(kind, path, rgb):
    """Write one image in different file formats."""
    image = Image.fromarray(rgb)
    if kind == "16 bit":
        cv2.imwrite(str(path), rgb[..., ::-1].astype(np.uint16) * 257)
    elif kind == "grey":
        image.convert("L").save(path)
    elif kind == "rgba":
        image.putalpha(255)
        image.save(path)
    elif kind == "exif":  # stored on its side, as cameras do, with the note to turn it back
        exif = Image.Exif()
        exif[0x0112] = 6
        image.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    elif kind == "cmyk":
        image.convert("CMYK").save(path)
    else:
        image.save(path)


@pytest.mark.parametrize(
    ("kind", "suffix", "same"),
    [
        ("16 bit", "png", True),
        ("rgba", "png", True),
        ("exif", "png", True),
        ("cmyk", "tif", True),
        ("grey", "png", False),
    ],
)
def test_the_same_image_in_other_file_formats(saved, tmp_path, kind, suffix, same):
    rgb = blobs(1, size=40)[0][0].permute(1, 2, 0).numpy()
    plain, other = tmp_path / "plain.png", tmp_path / f"other.{suffix}"
    _write("plain", plain, rgb)
    _write(kind, other, rgb)
    probs = predict_files([plain, other], saved[0])[list(CLASSES)].to_numpy()
    assert np.isfinite(probs).all()
    assert np.allclose(probs[0], probs[1], atol=1e-5) == same


def _png_header(width, height):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def _gif():
    out = io.BytesIO()
    Image.new("RGB", (40, 40)).save(out, "GIF")
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "empty"), (_png_header(60000, 60000), "too many"), (_png_header(1, 1), "[.]png: ."), (_gif(), "GIF")],
)
def test_bad_files_are_one_line_with_their_name(saved, tmp_path, content, message):
    bad = tmp_path / "bad.png"
    bad.write_bytes(content)
    with pytest.raises(LeukError, match=message) as caught:
        predict_files([bad], saved[0])
    assert str(bad) in str(caught.value) and "\n" not in str(caught.value) and caught.value.exit_code == 2
