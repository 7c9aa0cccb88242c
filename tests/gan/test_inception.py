"""FID, KID and IS from a local file; random weights in the right format replace the published ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from damage import survives
from leuk_lib.gan import fidelity, inception
from leuk_lib.runs.errors import LeukError


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state dict with every key and shape of torch-fidelity's file."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Untrained(FeatureExtractorInceptionV3):
        def load_state_dict(self, *args: object, **kwargs: object) -> None:  # type: ignore[override]
            return

    folder = tmp_path_factory.mktemp("inception")
    torch.save({}, folder / "empty.pth")
    torch.manual_seed(0)
    model = Untrained("x", ["2048"], feature_extractor_weights_path=str(folder / "empty.pth"))
    for module in model.modules():  # signals that neither die out nor grow on their way through the network
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    path = folder / "weights.pth"
    torch.save(model.state_dict(), path)
    return path


def cells(n: int, seed: int) -> torch.Tensor:
    """Discs of differing size and darkness on a bright field: (n,3,32,32) uint8."""
    g = torch.Generator().manual_seed(seed)
    radius, dark = 5 + 8 * torch.rand(n, 1, 1, 1, generator=g), 60 + 80 * torch.rand(n, 3, 1, 1, generator=g)
    axis = torch.arange(32) - 15.5
    disc = ((axis[:, None] ** 2 + axis[None] ** 2) < radius**2).float()
    return (230 - dark * disc).to(torch.uint8)


def test_metrics_order_noise_collapse_and_real(weights: Path) -> None:
    """Noise is farther from real cells than a collapsed set, and that than other real cells; IS is 1 under collapse."""
    real = cells(8, 0)
    noise = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    sets = {"other real": cells(8, 2), "copies": real, "collapsed": real[:1].repeat(8, 1, 1, 1), "noise": noise}
    table = fidelity.fidelity_table(
        {name: (np.zeros((0, 4)), images) for name, images in sets.items()},
        (np.zeros((0, 4)), real[:0]), np.zeros((0, 4)), inception_weights=weights, holdout_images=real,
    )  # fmt: skip
    rows = table[table["metric"].isin(["FID", "KID x 1000", "IS"])].set_index(["metric", "set"])
    assert (rows["n"] == 8).all() and rows["note"].str.contains("8 held-out.*biased").all()
    value = rows["value"]
    assert np.isfinite(value).all()
    assert abs(value["FID", "copies"]) < 1e-3 * value["FID", "noise"]
    for metric in ("FID", "KID x 1000"):
        assert value[metric, "other real"] < value[metric, "collapsed"] < value[metric, "noise"]
    assert value["IS", "collapsed"] == pytest.approx(1, abs=1e-6) and value["IS", "other real"] > 1
    assert not table["metric"].str.contains("Inception").any()  # nothing is reported as missing


def test_too_few_images_are_reported(weights: Path) -> None:
    model = torch.nn.Identity()
    rows = fidelity.inception_rows({"few": cells(2, 0)}, cells(0, 0), model)
    assert all(np.isnan(row["value"]) and "too few" in row["note"] for row in rows)


def test_missing_damaged_and_foreign_files_are_one_line(tmp_path: Path) -> None:
    damaged, foreign, text = tmp_path / "damaged.pth", tmp_path / "foreign.pth", tmp_path / "text.pth"
    torch.save({"fc.weight": torch.zeros(3, 3)}, foreign)
    damaged.write_bytes(foreign.read_bytes()[:200])
    torch.save(["not", "a", "state"], text)
    for path, message in (
        (tmp_path / "nothing.pth", "no such file"), (damaged, "damaged"), (foreign, "other weights"), (text, "no state dict"),
    ):  # fmt: skip
        with pytest.raises(LeukError, match=message) as caught:
            inception.load_inception(path)
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize("new", [True, False])
def test_damaged_weights_are_one_line(tmp_path: Path, new: bool) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"fc.weight": torch.ones(30, 3)}, path, _use_new_zipfile_serialization=new)
    survives(lambda path: inception.read_weights(path, inception.ALEXNET), path)


def test_a_file_that_would_run_code_is_not_run(tmp_path: Path) -> None:
    import pickle

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "sprung",))  # type: ignore[return-value]

    path = tmp_path / "trap.pth"
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(LeukError, match="damaged or foreign"):
        inception.load_inception(path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("kept", [1, 4])
def test_inception_score_of_known_answers(kept: int) -> None:
    """``kept`` equally frequent, certain answers: the score is their number."""
    logits = 50 * np.eye(4)[np.arange(40) % kept]
    assert inception.inception_score(logits) == pytest.approx(kept, abs=0.6)


def test_integer_weights_are_refused(tmp_path):
    file = tmp_path / "weights.safetensors"
    save_file({"a": torch.ones(2, dtype=torch.int8)}, file)
    with pytest.raises(LeukError, match=r"a is of type torch\.int8"):
        inception.read_weights(file, "weights")
