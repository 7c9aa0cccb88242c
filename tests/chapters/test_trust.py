"""Chapter 8: models read from files, scores under shifts, cells that are shown."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from alhe.toys import cell
from chapters.toys import CLASSES
from leuk_lib.chapters.comparison import baseline_task, networks_of
from leuk_lib.chapters.trust import best_baseline, gallery_cells, open_scorer, open_wpat, read_scores, shift_table
from leuk_lib.chapters.wpat import load_inputs, save_models, train_wpat
from leuk_lib.evaluation import sanity
from leuk_lib.evaluation.baselines import fit_baselines, network_scorer, prediction_table
from leuk_lib.evaluation.robustness import STRENGTHS
from leuk_lib.figures import trust as figures
from leuk_lib.runs.errors import LeukError
from leuk_lib.training.fabric import make_fabric
from wpat.toys import blobs


def trained_run(stage, baselines):
    """Train WPAT and baselines for two steps, and write what the stages ``wpat`` and ``comparison`` leave."""
    params = stage.params.model_copy(update={"steps": 2, "evaluations": 1})
    inputs, fabric, folder = load_inputs(stage, params, []), make_fabric(params), stage.folder
    scorers, networks = {}, {}
    for name in ("wpat", "comparison"):
        (stage.root / name).mkdir()
    for name in ("wpat", "comparison"):
        trained = {}
        if name == "wpat":
            trained = {"wpat": train_wpat(stage, inputs, fabric)["wpat"].model}
            networks = {"wpat": "fcmae"}
            of_stage = {"wpat": network_scorer(trained["wpat"])}
        else:
            networks = networks_of(baselines)
            of_stage = fit_baselines(baselines, baseline_task(stage, params, inputs, fabric, trained))
        stage.folder = stage.root / name
        predictions = prediction_table(of_stage, inputs.cells.images, inputs.cells, {"val": inputs.val})
        save_models(stage, params, inputs, trained, networks, predictions)
        scorers |= of_stage
    stage.folder = folder
    (stage.root / "comparison" / "card.json").write_text(json.dumps({"params": {"baselines": list(baselines)}}))
    return params, inputs, fabric, scorers


def test_models_are_read_from_files_and_score_exactly_as_they_did(stage, monkeypatch):
    params, inputs, fabric, scorers = trained_run(stage, ("majority", "colour", "linear_probe", "test_resnet"))
    images = inputs.cells.images[inputs.val]
    monkeypatch.setattr("leuk_lib.chapters.wpat.finetune", None)  # nothing is trained again
    for name, scorer in scorers.items():
        again = open_scorer(stage, name, params, inputs, fabric)
        np.testing.assert_array_equal(again(images, None), scorer(images, None), err_msg=name)
    model = open_wpat(stage.root / "wpat", fabric.device)
    np.testing.assert_array_equal(network_scorer(model)(images, None), scorers["wpat"](images, None))


def test_a_model_that_is_missing_or_another_is_one_line(stage):
    params, inputs, fabric, _ = trained_run(stage, ("test_resnet",))
    with pytest.raises(LeukError, match="holds no model 'resnet18'; run notebooks/06_comparison"):
        open_scorer(stage, "resnet18", params, inputs, fabric)
    (stage.root / "comparison" / "test_resnet.safetensors").rename(stage.root / "wpat" / "model.safetensors")
    with pytest.raises(LeukError, match="is no WPAT; run notebooks/05_wpat"):
        open_wpat(stage.root / "wpat", fabric.device)
    (stage.root / "wpat" / "model.safetensors").unlink()
    with pytest.raises(LeukError, match="05_wpat"):
        open_wpat(stage.root / "wpat", fabric.device)


def test_scores_are_read_as_they_were_written(tmp_path):
    table = pd.DataFrame({"model": ["wpat"], "split": ["val"], "metric": ["accuracy"], "value": [1 / 3]})
    table.to_csv(tmp_path / "scores.csv", index=False)
    pd.testing.assert_frame_equal(read_scores(tmp_path), table, check_exact=True)
    table.assign(value="x").to_csv(tmp_path / "scores.csv", index=False)
    with pytest.raises(LeukError, match="06_comparison"):
        read_scores(tmp_path)


def test_the_best_baseline_is_chosen_on_validation_cells():
    rows = [("wpat", "val", 0.9), ("a", "val", 0.5), ("b", "val", 0.6), ("a", "test", 0.8), ("b", "test", 0.1)]
    scores = pd.DataFrame(rows, columns=["model", "split", "value"]).assign(metric="accuracy")
    assert best_baseline(scores) == "b"
    assert best_baseline(scores[scores["model"] == "wpat"]) is None


def test_gallery_shows_the_most_confident_cells_and_takes_turns_by_class():
    labels = np.array([0, 0, 1, 2, 1, 2])
    probs = np.full((6, 4), 0.05)
    for row, (predicted, probability) in enumerate([(0, 0.9), (0, 0.8), (1, 0.7), (2, 0.6), (0, 0.6), (1, 0.8)]):
        probs[row, predicted] = probability
    shown = gallery_cells(labels, probs, CLASSES, 3)
    assert shown["right"]["position"].tolist() == [0, 2, 3]
    assert shown["wrong"]["position"].tolist() == [5, 4] and shown["wrong"]["predicted"].tolist() == ["b", "a"]


def test_the_sanity_check_records_the_fully_randomised_model():
    rows = [("image alone", "class queries", 0.9, 0.8, 1.0, 7), ("image alone", "… and encoder", 0.2, 0.1, 0.3, 7)]
    recorded = {}
    stage = SimpleNamespace(record=lambda key, value, low, high, n: recorded.update({key: (value, low, high, n)}))
    sanity.record(stage, pd.DataFrame(rows, columns=sanity.COLUMNS))
    assert recorded == {"sanity_image_alone": (0.2, 0.1, 0.3, 7)}


def test_all_models_get_the_same_shifted_and_then_enhanced_cells():
    images = torch.from_numpy(np.stack([cell(32, 32, seed)[0] for seed in range(6)])).permute(0, 3, 1, 2).contiguous()
    labels, groups = torch.tensor([0, 1, 0, 1, 0, 1]), np.array(list("aabbcc"))
    received = {"right": [], "wrong": []}

    def scorer(name, predicted):
        def score(images, masks):
            received[name].append(images)
            return np.eye(2)[predicted.numpy()]

        return score

    scorers = {"right": scorer("right", labels), "wrong": scorer("wrong", 1 - labels)}
    table = shift_table(scorers, images, labels, groups, lambda shifted: 255 - shifted, seed=0)
    assert len(table) == 2 * (1 + sum(map(len, STRENGTHS.values())))
    by_model = table.groupby("model")["value"].agg(["min", "max"])
    assert by_model.loc["right"].tolist() == [1, 1] and by_model.loc["wrong"].tolist() == [0, 0]
    assert (table["n"] == 6).all() and (table["groups"] == 3).all()
    assert all(torch.equal(a, b) for a, b in zip(received["right"], received["wrong"], strict=True))
    assert torch.equal(received["right"][0], 255 - images)  # strength 0: enhanced, not shifted
    again = shift_table(scorers, images, labels, groups, lambda shifted: 255 - shifted, seed=0)
    assert again.equals(table)


def test_a_single_group_has_no_interval():
    images, labels = torch.full((2, 3, 32, 32), 200, dtype=torch.uint8), torch.tensor([0, 1])
    scorers = {"m": lambda images, masks: np.eye(2)}
    table = shift_table(scorers, images, labels, np.array(["a", "a"]), lambda x: x, 0)
    assert table["low"].isna().all() and (table["value"] == 1).all()


def test_figures_show_what_they_are_given():
    images, labels, masks = blobs(9)
    probs = np.eye(4)[np.array([0, 1, 2, 0, 1, 2, 0, 1, 1])] * 0.6 + 0.1
    cells = gallery_cells(labels.numpy(), probs, CLASSES, 4)
    maps, pictures = {"attention": masks.float().numpy()}, images.permute(0, 2, 3, 1).numpy()
    empty = figures.gallery({"wrong": cells["wrong"].iloc[:0]}, pictures, maps, 4)
    assert "none" in empty.axes[0].texts[0].get_text()
    no_masks = pd.DataFrame(columns=["method", "region", "measure", "value", "low", "high", "area", "n"])
    assert "no masks" in figures.shares(no_masks).axes[0].texts[0].get_text()
    rows = [(m, r, v, v - 0.1, v + 0.1) for m in ("attention", "image alone") for r, v in (("head", 0.9), ("all", 0.2))]
    sanity_figure = figures.sanity(pd.DataFrame(rows, columns=["method", "randomised", "value", "low", "high"]))
    np.testing.assert_allclose(sanity_figure.axes[0].containers[0].lines[0].get_ydata(), [1, 0.9, 0.2])
    for figure in (figures.gallery(cells, pictures, maps, 4), sanity_figure):
        figure.canvas.draw()
