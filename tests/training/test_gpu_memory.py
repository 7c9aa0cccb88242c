"""Each training of profile *paper* on a GPU that is not there: it fits 80 GB, and no step makes the host wait."""

import functools
import inspect
import re
from pathlib import Path

import pandas as pd
import pytest
import torch

import gpu_memory
from leuk_lib.gan import networks
from leuk_lib.training.fake_gpu import Usage

ROOT = Path(__file__).parents[2]
TRAININGS = {f"{stage} {name}": (params, count) for stage, name, params, count in gpu_memory.trainings("paper")}
KEPT = pd.read_csv(ROOT / "tests" / "gpu_memory.csv")
METHODS = ("fcmae masked autoencoder", "wpat wpat")  # the others take up to a minute each
every_training = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in METHODS else pytest.mark.long) for name in TRAININGS]
)

SHARE = {"fcmae masked autoencoder": 0.5, "wpat wpat": 0.5}
#: Where products are in float32 on purpose: augmentation, and the standard deviation within classes.
FLOAT32 = ("training/augment.py", "gan/ada.py")


@functools.cache
def usage(name: str) -> Usage:
    params, count = TRAININGS[name]
    return count(params)


@every_training
def test_it_fits_80_gb(name: str):
    assert gpu_memory.fits(usage(name).peak, 80), f"{usage(name).peak / gpu_memory.GIB:.1f} GiB"


@every_training
def test_no_step_makes_the_host_wait(name: str):
    assert usage(name).waits_of(1) == []


@every_training
def test_products_are_in_bfloat16_where_asked_for(name: str):
    if TRAININGS[name][0].precision != "bf16-mixed":
        pytest.skip("trained in float32")
    lines, first = inspect.getsourcelines(networks.class_minibatch_std)
    within = range(first, first + len(lines))
    forward = [place for place in usage(name).wide if not re.search(r"/(train|pretrain|finetune)\.py:", place)]
    other = [
        place
        for place in forward
        if not any(file in place for file in FLOAT32)
        and not ("gan/networks.py" in place and int(place.rpartition(":")[2]) in within)
    ]
    assert other == []
    assert not [place for place in usage(name).wide if place.startswith("convolution")]


@every_training
def test_the_table_is_what_is_counted(name: str):
    stage, _, training = name.partition(" ")
    row = KEPT[(KEPT["stage"] == stage) & (KEPT["training"] == training)].iloc[0]
    assert usage(name).peak / gpu_memory.GIB == pytest.approx(row["GiB"], rel=0.03, abs=0.3)
    assert TRAININGS[name][0].accumulate == row["accumulate"] and row["batch_size"] == TRAININGS[name][0].batch_size


def test_the_page_has_the_rows_of_the_table():
    page = (ROOT / "book/use/gpu.md").read_text()
    for line in gpu_memory.page_rows(KEPT):
        assert line in page


@pytest.mark.long
def test_the_whole_table_is_what_is_counted():
    counted = gpu_memory.table("paper")
    pd.testing.assert_frame_equal(counted, KEPT, check_dtype=False, rtol=0.02, atol=0.1)


@pytest.mark.parametrize("name", METHODS)
def test_most_of_the_memory_is_bfloat16(name: str):
    """What float32 is left are weights, their moments, images, norms and softmax."""
    at_peak = usage(name).at_peak
    assert at_peak[torch.bfloat16] > SHARE[name] * usage(name).peak
