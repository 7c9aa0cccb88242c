"""The exercises of chapters 2 to 5: what their answers predict is what happens.

The short tests make the library's calls that the changed parameter reaches, on the cells of the finished smoke run; the
long ones run each command of the pages.
"""

from __future__ import annotations

import math
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from leuk_lib.alhe import quality
from leuk_lib.alhe.enhance import alhe
from leuk_lib.alhe.torch_alhe import enhance_cells
from leuk_lib.chapters import alhe as alhe_chapter
from leuk_lib.data.cellset import CellSet
from leuk_lib.fcmae.masking import n_visible, random_masks
from leuk_lib.fcmae.pretrain import mask_grid, pretrain
from leuk_lib.fcmae.weights import load_backbone
from leuk_lib.gan import balance, losses
from leuk_lib.gan.generate import resize
from leuk_lib.gan.pipeline import inner_split
from leuk_lib.gan.train import train_gan
from leuk_lib.training.fabric import make_fabric
from leuk_lib.wpat.model import WPAT
from leuk_lib.wpat.params import WpatParams
from notebooks.exercises import CHAPTERS, FIRST, Exercise, commands, exercises, metrics, section, smoke_params

pytestmark = pytest.mark.notebooks
PROCESSOR_SECONDS = 30.0  # of an exercise, on a machine with other work; on an idle one it takes two thirds


# ---- the pages -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_ends_with_three_exercises_that_each_change_one_parameter(name: str):
    text, found = section(name), exercises(name)
    assert len(found) == 3 and commands(text)[0] == FIRST
    assert text.count("<details") == text.count("</details>") == 3
    for exercise in found:
        assert exercise.question.endswith("?") and exercise.answer not in exercise.question
        assert exercise.command[:6] == ("run", name, "--profile", "smoke", "--run", "exercise")
        assert set(exercise.overrides) == {name} and len(exercise.changed) == 1
        exercise.params()  # valid
    assert len({next(iter(exercise.changed)) for exercise in found}) == 3


@pytest.fixture(scope="module")
def cells(smoke_run: Path) -> CellSet:
    """The cells of the smoke run."""
    return CellSet.open(smoke_run / "data")


@pytest.fixture(scope="module")
def enhanced(cells: CellSet, smoke_run: Path) -> CellSet:
    """The same cells as the later chapters see them."""
    return cells.with_images(smoke_run / "alhe")


# ---- chapter 2 -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def qualities(cells: CellSet) -> list[dict[str, float]]:
    """Mean quality measures of ALHE: as the smoke run has it, then with the change of each exercise."""
    default = smoke_params("alhe")
    sample = alhe_chapter.draw_sample(cells, default.quality_cells, default.seed)
    found = []
    for params in (default, *(exercise.params() for exercise in exercises("alhe"))):
        methods = {"input": lambda image: image, "ALHE": lambda image, params=params: alhe(image, params)}
        table = quality.compare(sample.images, sample.masks, methods, sample.labels, sample.groups)
        means = quality.summarise(table, default.seed, resamples=2).set_index(["method", "measure"])["value"]
        row = {f"{measure}_{method.lower()}": value for (method, measure), value in means.items()}
        changed = alhe_chapter.changed_share(cells.images, enhance_cells(cells.images, params))
        found.append({**row, "changed_share": changed})
    return found


def check_alhe(number: int, before: dict[str, float], after: dict[str, float]) -> None:
    """Check the answer of an exercise of chapter 2 on the numbers before and after the change."""
    if number == 1:
        assert before["changed_share"] > 0 and before["ssim_alhe"] < 1 < before["texture_ratio_alhe"]
        assert (after["changed_share"], after["ssim_alhe"], after["texture_ratio_alhe"]) == (0, 1, 1)
    elif number == 2:
        assert before["cnr_cytoplasm_alhe"] > before["cnr_cytoplasm_input"]
        assert after["cnr_cytoplasm_alhe"] < after["cnr_cytoplasm_input"] == before["cnr_cytoplasm_input"]
    else:
        assert abs(after["background_ratio_alhe"] - 1) > 2 * abs(before["background_ratio_alhe"] - 1)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_answer_of_chapter_2(number: int, qualities: list[dict[str, float]]):
    check_alhe(number, qualities[0], qualities[number])


def test_most_of_a_cells_image_is_background(cells: CellSet):
    assert cells.masks is not None
    assert (cells.masks == 0).float().mean() > 0.5


# ---- chapter 3 -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recall(smoke_run: Path) -> Any:
    """The held-out recall per class that the smoke run measured."""
    return pd.read_csv(smoke_run / "acdb_gan" / "rounds.csv").query("round == 1")["recall"].to_numpy()


@pytest.fixture(scope="module")
def trainings(
    enhanced: CellSet, recall: Any, tmp_path_factory: pytest.TempPathFactory
) -> list[tuple[pd.DataFrame, list[float]]]:
    """History and weights of the penalties of the GAN: as the smoke run has it, then as exercises 1 and 2 change it."""
    found = []
    with pytest.MonkeyPatch.context() as patch:
        for params in (smoke_params("acdb_gan"), *(each.params() for each in exercises("acdb_gan")[:2])):
            weights: list[float] = []

            def penalty(r1: Tensor, r2: Tensor, gamma: float, seen: list[float] = weights) -> Tensor:
                seen.append(gamma)
                return (r1.mean() + r2.mean()) * gamma / 2

            patch.setattr(losses, "penalty", penalty)
            train = inner_split(enhanced, params.inner_fraction, params.seed).train
            history = train_gan(
                resize(enhanced.images[train], params.gan_size), enhanced.labels[train], len(enhanced.classes), params,
                tmp_path_factory.mktemp("gan"), "exercise", make_fabric(params), recall,
            ).history  # fmt: skip
            found.append((history, weights))
    return found


def probabilities(history: pd.DataFrame) -> pd.DataFrame:
    """The columns p_0, p_1 … of a history."""
    return history.filter(regex=r"^p_\d+$")


def check_penalties(before: pd.DataFrame, after: pd.DataFrame) -> None:
    """Check that the penalties are computed in every fourth step before, and in every one after."""
    assert np.flatnonzero(before["r1"].notna()).tolist() == list(range(0, len(before), 4))
    assert after["r1"].notna().all() and after["r2"].notna().all()


def check_augmentation(before: pd.DataFrame, after: pd.DataFrame) -> None:
    """Check how far p moved before and after exercise 2 of chapter 3."""
    assert 0 < probabilities(before).max(axis=None) < 0.02
    last = probabilities(after).iloc[-1]
    assert 0.2 < last.max() < 0.4 and last.min() == 0


def test_penalties_in_every_step_weigh_as_much_as_before(trainings: list[tuple[pd.DataFrame, list[float]]]):
    (history, weights), (changed, changed_weights) = trainings[:2]
    check_penalties(history, changed)
    assert len(changed_weights) == 4 * len(weights) == len(changed)
    assert changed_weights[0] == weights[0] / 4
    assert sum(changed_weights) == pytest.approx(sum(weights))


def test_augmentation_moves_a_hundred_times_as_fast(trainings: list[tuple[pd.DataFrame, list[float]]]):
    params = smoke_params("acdb_gan")
    assert params.steps * params.batch_size == 160 and 160 / params.ada_images == 0.02
    assert exercises("acdb_gan")[1].params().ada_images * 100 == params.ada_images
    check_augmentation(trainings[0][0], trainings[2][0])


def check_quota(real: Any, recall: Any, wanted: Any, params: Any) -> None:
    """Check that a quota is what the missing recall alone calls for, up to one cell."""
    by_recall = balance.quota(real, recall, params.beta, 0.0, params.quota_recall, params.rho)
    assert by_recall.max() > 1 and np.isin(np.asarray(wanted) - by_recall, (0, 1)).all()


def test_only_the_recall_is_left_of_the_quota(enhanced: CellSet, recall: Any):
    before, after = smoke_params("acdb_gan"), exercises("acdb_gan")[2].params()
    labels = enhanced.labels[enhanced.indices("train")]
    real = torch.bincount(labels, minlength=len(enhanced.classes)).numpy()

    def wanted(params: Any) -> Any:
        return balance.quota(real, recall, params.beta, params.quota_need, params.quota_recall, params.rho)

    assert real.min() >= 10 and balance.effective_number([10, 10**6], after.beta) == pytest.approx([2, 2], rel=1e-3)
    check_quota(real, recall, wanted(after), after)
    with pytest.raises(AssertionError):
        check_quota(real, recall, wanted(before), before)


# ---- chapter 4 -----------------------------------------------------------------------------------------------------


def test_nine_tenths_hidden_leave_two_patches_of_sixteen(cells: CellSet):
    before, after = smoke_params("fcmae"), exercises("fcmae")[0].params()
    visible = []
    for params in (before, after):
        grid = mask_grid(cells.size, params)
        assert grid == (4, 4)
        masks = random_masks(5, grid, params.mask_ratio, torch.Generator().manual_seed(0))
        assert (masks.flatten(1).sum(dim=1) == n_visible(16, params.mask_ratio)).all()
        visible.append(n_visible(16, params.mask_ratio))
    assert visible == [6, 2] and 16 / visible[1] == 8


def test_a_stem_of_stride_two_hides_half_of_the_image(cells: CellSet):
    params = exercises("fcmae")[1].params()
    assert (cells.size, params.mask_ratio) == (32, 0.6)
    assert mask_grid(cells.size, params) == (2, 2)
    assert random_masks(5, (2, 2), params.mask_ratio, torch.Generator().manual_seed(0)).float().mean() == 0.5


def check_pattern(before: dict[str, float], after: dict[str, float]) -> None:
    """Check that the errors on stained patches and on empty field are more alike than before, which was about two."""
    factors = [losses["loss_stained"] / losses["loss_field"] for losses in (before, after)]
    assert 1.5 < factors[0] < 3
    assert abs(math.log(factors[1])) < abs(math.log(factors[0]))


def test_errors_of_the_pattern_differ_less_between_cell_and_field(enhanced: CellSet, smoke_run: Path, tmp_path: Path):
    params = exercises("fcmae")[2].params()
    images = enhanced.images[enhanced.indices("train")]
    history = pd.DataFrame(pretrain(images, params, tmp_path, "exercise", make_fabric(params)).history)
    tail = history.tail(max(len(history) // 10, 1))[["stained", "field"]].mean().add_prefix("loss_")
    check_pattern(metrics(smoke_run, "fcmae"), tail.to_dict())


# ---- chapter 5 -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoder(smoke_run: Path) -> Any:
    """The pretrained encoder of the smoke run."""
    return load_backbone(smoke_run / "fcmae" / "encoder.safetensors")


def build(encoder: Any, params: WpatParams) -> WPAT:
    """WPAT for four classes on the encoder, with random weights."""
    torch.manual_seed(0)
    return WPAT(encoder, 4, params).eval()


def sizes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shape of each parameter by name."""
    return {name: tuple(weight.shape) for name, weight in model.named_parameters()}


def test_half_the_latents_are_128_parameters_less(encoder: Any):
    params = smoke_params("wpat")
    before, after = (sizes(build(encoder, each)) for each in (params, exercises("wpat")[0].params()))
    assert (params.dim, before.pop("latents"), after.pop("latents")) == (32, (8, 32), (4, 32))
    assert before == after


def test_smaller_windows_are_more_and_have_the_same_parameters(encoder: Any, enhanced: CellSet):
    before, after = (build(encoder, each) for each in (smoke_params("wpat"), exercises("wpat")[1].params()))
    assert (before.window_size, after.window_size) == (4, 2) and sizes(before) == sizes(after)
    image = torch.zeros(1, 3, enhanced.size, enhanced.size)
    few, many = (sum(model.forward_features(image).layout.counts) for model in (before, after))
    assert many > 2 * few


def reach(model: WPAT, image: Tensor) -> dict[str, int]:
    """On how many windows' tokens those of one window, its region token and the logits depend in the end.

    The windows' tokens are taken as given: pixels of the image reach several of them through the encoder.
    """
    seen: dict[str, Any] = {}
    start = model.window_tokens

    def window_tokens(maps: list[Tensor]) -> Any:
        tokens, _, layout = start(maps)
        seen["start"] = tokens.detach().requires_grad_()
        return seen["start"], seen["start"].mean(dim=2), layout

    model.window_tokens = window_tokens  # type: ignore[method-assign]
    model.window_blocks[-1].register_forward_hook(lambda *call: seen.update(tokens=call[-1][0][:, 0]))
    model.latent_blocks[-1].register_forward_hook(lambda *call: seen.update(region=call[-1][1][:, 0]))
    seen["logits"] = model(image)

    def windows(value: Tensor) -> int:
        (gradient,) = torch.autograd.grad(value.square().sum(), seen["start"], retain_graph=True)
        return int((gradient.abs().sum(dim=(0, 2, 3)) > 0).sum())

    return {name: windows(seen[name]) for name in ("tokens", "region", "logits")}


def test_with_one_pair_of_blocks_no_token_receives_a_signal_from_another_window(encoder: Any, enhanced: CellSet):
    image = torch.rand(1, 3, enhanced.size, enhanced.size, generator=torch.Generator().manual_seed(0))
    before, after = smoke_params("wpat"), exercises("wpat")[2].params()
    assert (before.depth, after.depth) == (2, 1)
    every = sum(build(encoder, before).forward_features(image).layout.counts)
    assert every > 1
    assert reach(build(encoder, before), image) == {"tokens": 1, "region": every, "logits": every}
    assert reach(build(encoder, after), image) == {"tokens": 1, "region": 1, "logits": every}


# ---- the commands --------------------------------------------------------------------------------------------------


def leuk(*arguments: str) -> float:
    """Run a command of the pages; return the seconds that all processors worked for it."""
    start = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "leuk_lib.cli.main", *arguments], check=True)
    end = resource.getrusage(resource.RUSAGE_CHILDREN)
    return end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """The run that the exercises start from, and a copy of it that stays as it is."""
    folder = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEUK_RESULTS", str(folder))
        leuk(*FIRST.split()[1:])
        shutil.copytree(folder / "exercise", folder / "first")
        yield folder / "first", folder / "exercise"


def shares_visible(run: Path) -> list[float]:
    """The visible share of each reconstructed cell of a run."""
    visible = load_file(run / "fcmae" / "reconstructions.safetensors")["visible"]
    return visible.float().mean(dim=(1, 2)).tolist()


def check_run(exercise: Exercise, number: int, before: Path, after: Path) -> None:
    """Check the answer of an exercise on the files of the runs before and after the change."""
    name = exercise.stage
    numbers = [metrics(run, name) for run in (before, after)]
    if name == "alhe":
        check_alhe(number, *numbers)
    elif name == "acdb_gan" and number == 3:
        wanted = pd.read_csv(after / name / "rounds.csv").query("round == 1")
        real = pd.read_csv(after / name / "quota.csv")["real"]
        check_quota(real, wanted["recall"], wanted["quota"], exercise.params())
    elif name == "acdb_gan":
        check = {1: check_penalties, 2: check_augmentation}[number]
        check(*(pd.read_csv(run / name / "history.csv") for run in (before, after)))
    elif name == "fcmae" and number == 3:
        check_pattern(*numbers)
    elif name == "fcmae":
        assert set(shares_visible(before)) == {6 / 16}
        assert set(shares_visible(after)) == {{1: 2 / 16, 2: 1 / 2}[number]}
    else:
        weights = [load_file(run / name / "model.safetensors") for run in (before, after)]
        shapes = [{key: tuple(value.shape) for key, value in each.items()} for each in weights]
        if number == 1:
            assert sum(w.numel() for w in weights[0].values()) - sum(w.numel() for w in weights[1].values()) == 128
        elif number == 2:
            assert shapes[0] == shapes[1]
        else:
            blocks = {key for key in shapes[1] if "_blocks." in key}
            assert blocks and all("_blocks.0." in key and "write" not in key for key in blocks)


# Later chapters first: a changed stage makes those after it run again.
@pytest.mark.long
@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("name", reversed(CHAPTERS))
def test_a_command_runs_in_seconds_and_its_answer_is_true(first_run: tuple[Path, Path], name: str, number: int):
    exercise = exercises(name)[number - 1]
    seconds = leuk(*exercise.command)
    check_run(exercise, number, *first_run)
    assert seconds < PROCESSOR_SECONDS
