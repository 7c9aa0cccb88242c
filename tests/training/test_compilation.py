"""Compiled networks train as the others do; without a compiler there is one line."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.params import TrainParams
from leuk_lib.training import compilation
from training import train_one

CPU = torch.device("cpu")


def test_nothing_is_compiled_unless_it_is_asked_for():
    model = nn.Linear(2, 2)
    assert compilation.compiled(model, TrainParams().torch_compile, CPU) is model


def test_no_compiler_is_one_line(monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object, **__: object) -> object:
        raise RuntimeError("\nNo working C++ compiler found in [None, 'g++']\nlong explanation")

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(LeukError) as caught:
        compilation.compiled(nn.Linear(2, 2), True, CPU)
    text = str(caught.value)
    assert "\n" not in text and caught.value.exit_code == 2
    assert "No working C++ compiler" in text and "explanation" not in text and "torch_compile to false" in text


@pytest.mark.long
def test_a_machine_without_a_compiler_is_recognised(root: Path, tmp_path: Path):
    """PyTorch finds no compiler where ``CXX`` names none."""
    source = (
        "import torch\nfrom torch import nn\nfrom leuk_lib.runs.errors import LeukError\n"
        "from leuk_lib.training.compilation import compiled\n"
        "try:\n    compiled(nn.Linear(2, 2), True, torch.device('cpu'))\n"
        "except LeukError as error:\n    print('refused:', error)\n"
    )
    bare = os.environ | {"CXX": "/nowhere/g++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", source], env=bare, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("refused: torch_compile = true: PyTorch cannot compile for cpu here"), done.stdout


COMPILER = os.environ.get("CXX", "g++")
SETTINGS: dict[str, dict[str, float]] = {"fcmae": {"contrast": 0.0}, "gan": {}, "wpat": {}}


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not shutil.which(COMPILER), reason=f"no {COMPILER}: apt-get install g++ python3-dev")
@pytest.mark.parametrize("method", SETTINGS)
def test_a_compiled_training_has_the_losses_of_one_that_is_not(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from leuk_lib.training.fabric import make_fabric

    compiled = []
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, **options: compiled.append(model) or real(model, **options))
    losses = []
    for wanted in (False, True):
        settings = {**train_one.SETTINGS[method], **SETTINGS[method], "steps": 4, "torch_compile": wanted}
        monkeypatch.setitem(train_one.SETTINGS, method, settings)
        weights, history = train_one.train(method, tmp_path / str(wanted), make_fabric(TrainParams(accelerator="cpu")))
        losses.append([row[name] for row in history for name in ("loss", "loss_d", "loss_g") if name in row])
        assert not any("_orig_mod" in name for name in weights)
    assert any(isinstance(model, nn.Module) for model in compiled)
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
