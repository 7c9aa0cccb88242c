"""Chapter 6: baselines trained like WPAT, model files, and the predictions of all models."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from leuk_lib.chapters.comparison import baseline_task, networks_of, params_of_wpat, with_predictions_of_wpat
from leuk_lib.chapters.wpat import load_inputs, save_models, train_wpat, wpat_names
from leuk_lib.evaluation.baselines import fit_baselines, network_scorer, prediction_table
from leuk_lib.figures import comparison as figures
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.files import sha256_file
from leuk_lib.training.fabric import make_fabric
from leuk_lib.training.pretrained import create
from leuk_lib.wpat.params import ComparisonParams
from leuk_lib.wpat.predict import load_model


def test_baselines_are_trained_on_real_cells_by_the_parameters_of_wpat(stage):
    params = stage.params.model_copy(update={"steps": 3, "evaluations": 1, "synthetic": False})
    stage.params = ComparisonParams()
    inputs, trained = load_inputs(stage, params, []), {}
    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 4))
    task = baseline_task(stage, params, inputs, make_fabric(params), trained)
    assert torch.equal(task.labels, inputs.cells.labels[inputs.train]) and not len(inputs.synthetic_labels)
    assert task.fit(network, "net")(torch.zeros(1, 3, 32, 32)).shape == (1, 4) and list(trained) == ["net"]


def test_the_parameters_of_wpat_are_read_from_its_card_but_for_device_and_seed(stage):
    given = stage.params.model_copy(update={"steps": 7, "lr": 0.5, "threads": 5, "precision": "bf16-mixed"})
    (stage.root / "wpat").mkdir()
    (stage.root / "wpat" / "card.json").write_text(json.dumps({"params": given.model_dump(mode="json")}))
    stage.params = ComparisonParams(accelerator="cpu", threads=1)
    params = params_of_wpat(stage)
    assert (params.steps, params.lr, params.backbones) == (7, 0.5, given.backbones)
    assert (params.accelerator, params.threads, params.precision, params.synthetic) == ("cpu", 1, "32-true", False)
    (stage.root / "wpat" / "card.json").write_text(json.dumps({"params": {"stepz": 7}}))
    with pytest.raises(LeukError, match=r"card\.json: stage wpat: unknown parameter 'stepz'"):
        params_of_wpat(stage)


def test_the_predictions_of_wpat_come_first_and_are_as_exact_as_they_were_written(stage, tmp_path):
    inputs = load_inputs(stage, stage.params, [])
    rng = np.random.default_rng(0)

    def scorer(images, masks):
        return rng.dirichlet(np.ones(4), len(images))

    parts = {"val": inputs.val}
    of_wpat, of_baseline = (
        prediction_table({n: scorer}, inputs.cells.images, inputs.cells, parts) for n in ("wpat", "b")
    )
    of_wpat.to_csv(tmp_path / "predictions.csv", index=False)
    table = with_predictions_of_wpat(tmp_path, of_baseline)
    pd.testing.assert_frame_equal(table, pd.concat([of_wpat, of_baseline], ignore_index=True), check_exact=True)
    pd.testing.assert_frame_equal(with_predictions_of_wpat(tmp_path, of_baseline.iloc[:0]), of_wpat, check_exact=True)
    (tmp_path / "predictions.csv").unlink()
    with pytest.raises(LeukError, match="05_wpat"):
        with_predictions_of_wpat(tmp_path, of_baseline)


def test_every_trained_network_becomes_a_model_file(stage, tmp_path):
    timm_file = tmp_path / "r.safetensors"
    save_file({k: v.contiguous() for k, v in create("test_resnet", None, 7, 32).state_dict().items()}, str(timm_file))
    name = f"test_resnet@{timm_file}"
    stage.params = stage.params.model_copy(
        update={
            "steps": 2,
            "evaluations": 1,
            "backbones": ("fcmae", name),
        }
    )
    inputs, fabric = load_inputs(stage, stage.params, []), make_fabric(stage.params)
    trained = {n: done.model for n, done in train_wpat(stage, inputs, fabric, stage.params.backbones).items()}
    assert list(trained) == ["wpat", "wpat on test_resnet@r.safetensors"]
    scorers = {n: network_scorer(model) for n, model in trained.items()}
    baselines = ("colour", "test_resnet", name)
    scorers |= fit_baselines(baselines, baseline_task(stage, stage.params, inputs, fabric, trained))
    networks = wpat_names(stage.params.backbones) | networks_of(baselines)
    predictions = prediction_table(scorers, inputs.cells.images, inputs.cells, {"val": inputs.val})
    files = save_models(stage, stage.params, inputs, trained, networks, predictions).set_index("model")
    assert list(files.index) == [*list(scorers)[:2], "test_resnet", "test_resnet@r.safetensors"]
    for model, row in files.iterrows():
        network, card = load_model(stage.folder / row["file"])
        images = inputs.cells.images[inputs.val]
        expected = scorers[model](images, None)
        np.testing.assert_allclose(network_scorer(network)(images, None), expected, atol=1e-6)
        assert card.temperature == row["temperature"] and ("weights under" in card.use) == ("@" in str(model))
        assert (card.origin or {}).get("sha256") == (sha256_file(timm_file) if "@" in str(model) else None)
    assert files["file"]["wpat"] == "model.safetensors"


@pytest.mark.parametrize("kind", ["lora", "last"])
def test_a_tuned_vision_transformer_becomes_a_plain_model_file(stage, tmp_path, kind):
    if kind == "lora":
        pytest.importorskip("peft", reason="the package peft is not installed")
    file = tmp_path / "v.safetensors"
    save_file({k: v.contiguous() for k, v in create("test_vit", None, 7, 160).state_dict().items()}, str(file))
    name = f"{kind}:test_vit@{file}"
    stage.params = stage.params.model_copy(update={"steps": 2, "evaluations": 1, "muon": 5.0})
    inputs, fabric, trained = load_inputs(stage, stage.params, []), make_fabric(stage.params), {}
    scorers = fit_baselines((name,), baseline_task(stage, stage.params, inputs, fabric, trained))
    (shown,) = trained
    assert shown == f"{kind}:test_vit@v.safetensors" and not hasattr(trained[shown], "merge_and_unload")
    assert any("parameters are trained" in note for note in stage.notes)
    predictions = prediction_table(scorers, inputs.cells.images, inputs.cells, {"val": inputs.val})
    (row,) = save_models(stage, stage.params, inputs, trained, networks_of([name]), predictions).to_dict("records")
    network, card = load_model(stage.folder / row["file"])
    images = inputs.cells.images[inputs.val]
    np.testing.assert_allclose(network_scorer(network)(images, None), scorers[shown](images, None), atol=1e-6)
    assert card.kind == "network" and "weights under" in card.use


def test_the_comparison_names_each_model_once():
    score = {"metric": "balanced_accuracy", "value": 0.5, "low": 0.4, "high": 0.6}
    scores = pd.DataFrame([{"model": m, "split": s, **score} for m in ("wpat", "majority") for s in ("val", "test")])
    figure = figures.comparison(scores)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["wpat", "majority"]
    figure.canvas.draw()
