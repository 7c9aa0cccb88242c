"""``leuk predict``: every output has all predictions, lists what cannot be used, and says that it is no medical device."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from damage import TIMES, mutated, one_line
from data.toys import folder
from leuk_lib.alhe.params import EnhanceParams
from leuk_lib.cli.main import main
from leuk_lib.cli.predict import enhancement
from leuk_lib.fcmae.encoder import build_encoder
from leuk_lib.runs.errors import LeukError
from leuk_lib.training.pretrained import create
from leuk_lib.wpat.contact_sheet import overlay
from leuk_lib.wpat.model import WPAT
from leuk_lib.wpat.params import WpatParams
from leuk_lib.wpat.predict import describe, read_card, save_model

CLASSES = ("ALL", "=AML", "use")
TINY = WpatParams(levels=2, dim=16, heads=2, window=2, latents=4, depth=1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = WPAT(build_encoder("zepto", 2), 3, TINY).eval()
    return save_model(
        network, describe(network, CLASSES, TINY, 32, {"kappa_max": 2.0}, 1.0), tmp_path_factory.mktemp("m")
    )


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    """Four images and a damaged one."""
    root = folder(tmp_path / "cells", each=2)
    (root / "a" / "broken.png").write_bytes((root / "a" / "a0.png").read_bytes()[:60])
    return root


def test_the_table_has_the_good_files_and_the_bad_ones_are_listed(model, cells, capsys):
    assert main(["predict", str(cells), str(cells / "gone.png"), "--model", str(model)]) == 1
    output = capsys.readouterr()
    assert [f"{name}.png" in output.out for name in ("a0", "a1", "b0", "b1", "broken")] == [True] * 4 + [False]
    lines = output.err.splitlines()
    assert len(lines) == 2 and "gone.png: no such file" in lines[0] and "broken.png: truncated" in lines[1]
    assert "2 could not be used" in output.out and "Not a medical device" in output.out


def test_csv_has_a_row_per_file_with_its_problem_and_use(model, cells, tmp_path, capsys):
    out = tmp_path / "out.csv"
    assert main(["predict", str(cells), "--model", str(model), "--csv", str(out), "--quiet"]) == 1
    table = pd.read_csv(out, keep_default_na=False)
    assert table.columns.tolist() == ["file", "ALL", "'=AML", "class use", "predicted", "problem", "use"]
    assert len(table) == 5 and (table["use"] == "research only; not a medical device").all()
    bad = table[table["problem"] != ""]
    assert [Path(file).name for file in bad["file"]] == ["broken.png"] and bad["predicted"].tolist() == [""]
    good = table[table["problem"] == ""]
    assert good[["ALL", "'=AML", "class use"]].astype(float).sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-5)
    assert not good["predicted"].str.startswith("=").any()
    output = capsys.readouterr().out
    assert "4 images: " in output and str(out) in output and "Not a medical device" in output


def test_json_has_predictions_and_what_cannot_be_used(model, cells, capsys):
    assert main(["predict", str(cells), "--model", str(model), "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert len(answer["predictions"]) == 4 and "Not a medical device" in answer["research_use"]
    assert [Path(item["file"]).name for item in answer["unusable"]] == ["broken.png"]


def test_the_sheet_shows_images_with_attention_and_loads_nothing(model, cells, tmp_path):
    sheet = tmp_path / "sheet.html"
    assert main(["predict", str(cells), "--model", str(model), "--sheet", str(sheet)]) == 1
    page = sheet.read_text()
    assert page.count("<img ") == 8 and page.count('alt="attention in ') == 4
    assert "Not a medical device" in page and "broken.png: truncated" in page
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_a_network_without_class_attention_gets_a_sheet_without_maps(cells, tmp_path):
    network = create("test_resnet", None, 3, 32).eval()
    model = save_model(network, describe(network, CLASSES, TINY, 32, None, 1.0), tmp_path / "network")
    sheet = tmp_path / "sheet.html"
    assert main(["predict", f"{cells}/b/*.png", "--model", str(model), "--sheet", str(sheet)]) == 0
    page = sheet.read_text()
    assert page.count("<img ") == 2 and "no attention maps" in page


def test_the_weights_that_a_model_started_from_are_named_with_the_predictions(cells, tmp_path, capsys):
    network = create("test_resnet", None, 3, 32).eval()
    origin = {
        "name": "dinobloom_s",
        "source": "Zenodo",
        "sha256": "ab" * 32,
        "licence": "CC BY-NC 4.0",
        "trained_on": ["bccd"],
    }
    file = save_model(network, describe(network, CLASSES, TINY, 32, None, 1.0, origin), tmp_path)
    assert read_card(file).origin == origin
    assert main(["predict", f"{cells}/b/*.png", "--model", str(file)]) == 0
    output = capsys.readouterr().out
    assert all(word in output for word in ("abababababab", "Their licence: CC BY-NC 4.0", "trained on bccd"))
    assert "MODEL_CARD.md" not in output  # there is none in the folder


def test_without_any_usable_file_the_exit_code_is_2(model, cells, tmp_path, capsys):
    out = tmp_path / "out.csv"
    assert main(["predict", str(cells / "a" / "broken.png"), "--model", str(model), "--csv", str(out)]) == 2
    assert "broken.png: truncated" in capsys.readouterr().err
    assert pd.read_csv(out)["problem"].str.startswith("truncated").all()


def test_attention_is_coloured_where_it_is():
    image = torch.full((8, 8, 3), 200, dtype=torch.uint8).numpy()
    attention = torch.zeros(8, 8).numpy()
    attention[2, 3] = 0.5
    coloured = overlay(image, attention)
    assert (coloured == image).all(axis=2).sum() == 63 and coloured[2, 3, 2] < 120


@pytest.mark.parametrize("times", TIMES)
def test_mutated_cards_are_one_line_before_anything_is_computed(tmp_path, times):
    """Those of the classes and sizes are ``read_card``'s, those of ALHE are checked where ALHE is known."""
    network = WPAT(build_encoder("zepto", 2), 3, TINY)
    card = describe(network, CLASSES, TINY, 32, EnhanceParams().model_dump(), 1.0)
    path, rng, taken = save_model(network, card, tmp_path), random.Random(1), 0
    with safe_open(str(path), "pt") as file:
        values = json.loads(file.metadata()["card"])
    # As in files of earlier versions: small weights, which ``read_card`` does not compare with the card, and no checksum of it.
    del values["weights_sha256"], values["metadata_sha256"]
    for number in range(times):
        changed = mutated(values, rng)
        if number % 2:
            changed = {**values, "alhe_settings": mutated(values["alhe_settings"], rng)}
        save_file({"weight": torch.zeros(1)}, str(path), metadata={"card": json.dumps(changed)})
        outcome = one_line(lambda: enhancement(read_card(path), path))
        assert not isinstance(outcome, LeukError) or outcome.exit_code == 2
        taken += not isinstance(outcome, LeukError)
    assert 0 < taken < times / 2


@pytest.mark.parametrize("option", ["--csv", "--sheet"])
def test_no_image_table_or_model_is_written_over(model, cells, tmp_path, capsys, option):
    table = tmp_path / "list.csv"
    table.write_text("file\ncells/a/a0.png\n")
    for name in (cells / "a" / "a0.png", table, model):
        content = name.read_bytes()
        assert main(["predict", str(table), "--model", str(model), option, str(name)]) == 2
        error = capsys.readouterr().err
        assert "is one of the files that are read" in error and error.count("\n") == 1 and name.read_bytes() == content
    assert main(["export", str(model), "--onnx", str(model)]) == 2
    assert "is one of the files that are read" in capsys.readouterr().err
    same = str(tmp_path / "same")
    assert main(["predict", str(table), "--model", str(model), "--csv", same, "--sheet", same]) == 2
    assert "named for two files" in capsys.readouterr().err and not Path(same).exists()


def test_a_device_without_values_is_one_line(model, cells, capsys):
    assert main(["predict", str(cells), "--model", str(model), "--device", "meta"]) == 2
    assert "device 'meta' cannot be used" in capsys.readouterr().err
