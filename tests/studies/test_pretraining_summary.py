"""Sentences and tables from a record of the pretraining study, with two starts of fine-tuning and with three."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from leuk_lib.studies import pretraining_summary as summary
from leuk_lib.studies.pretraining import CONTRAST, PIXELS, PUBLISHED, SCRATCH
from leuk_lib.studies.record import StudyRecord, load_record, record_file, to_table

SHARES = ("0.05", "0.1", "1")
#: Differences and half intervals of each pair by share: published weights better with few labels, worse with all.
PAIRS = {
    (PUBLISHED, CONTRAST): (0.2, 0.1, -0.2),
    (PUBLISHED, SCRATCH): (0.3, 0.2, -0.1),
    (CONTRAST, SCRATCH): (0.01, 0.1, -0.01),
}
HALF = 0.05


@pytest.fixture(scope="module")
def committed(root: Path) -> StudyRecord:
    return load_record(root / record_file("pretraining", "pbc_barcelona_128"))


def made(committed: StudyRecord, published: str = "") -> StudyRecord:
    """A record with the starts of ``published`` or without, in the order in which the study writes them."""
    arms = (SCRATCH, CONTRAST, PUBLISHED) if published else (SCRATCH, CONTRAST)
    labels = [
        {"condition": share, "arm": arm, "value": 0.5, "low": 0.4, "high": 0.6, "n": 40 + k, "groups": 9, "seeds": 2}
        for k, share in enumerate(SHARES)
        for arm in arms
    ]
    gains = [
        {"condition": share, "arm": arm, "against": against, "value": value, "low": value - HALF, "high": value + HALF, "p": 0.5, "p_holm": 1.0}
        for arm, against in itertools.combinations(reversed(arms), 2)
        for share, value in zip(SHARES, PAIRS[arm, against], strict=True)
    ]  # fmt: skip
    probes = [
        {"condition": probe, "arm": arm, "against": against, "value": value, "low": value - HALF, "high": value + HALF, "p": 0.5}
        for arm, against, values in ((CONTRAST, "colour histogram", (-0.9, -0.9)), (CONTRAST, SCRATCH, (0.2, 0.0)), (PIXELS, SCRATCH, (-0.2, 0.0)))
        for probe, value in zip(("k-NN", "linear"), values, strict=True)
    ]  # fmt: skip
    rates = [
        {"condition": share, "arm": arm, "rate": rate, "loss": 0.5, "chosen": rate == (0.001 if arm == SCRATCH else 0.009)}
        for share in SHARES for arm in arms for rate in (0.001, 0.003, 0.009)
    ]  # fmt: skip
    tables = {
        name: to_table(pd.DataFrame(rows))
        for name, rows in (("labels", labels), ("label_gains", gains), ("gains", probes), ("rates", rates))
    }
    params = dict(committed.params) | ({"published": published} if published else {})
    return replace(committed, params=params, tables=committed.tables | tables)


class Recorder:
    def __init__(self) -> None:
        self.numbers: dict[str, tuple[float, int]] = {}

    def record(self, key: str, value: float, low: float, high: float, n: int) -> None:
        assert low <= value <= high and key not in self.numbers
        self.numbers[key] = (value, n)

    def note(self, text: str) -> None:
        raise AssertionError(text)


def test_two_starts(committed: StudyRecord) -> None:
    record = made(committed)
    assert summary.labels_title(record) == f"Against a random start: {CONTRAST} better with 1 of 3 shares of the labels"
    assert summary.labels_summary(record) == (
        f"{CONTRAST} against {SCRATCH}: better with 10 % of the labels; not clearly different with 5 % and 100 % of the labels."
    )
    assert summary.published_summary(record).startswith("No start of this record has published weights")
    assert list(summary.labels_table(record)) == ["share of the labels", f"{CONTRAST} − {SCRATCH}"]
    stage = Recorder()
    summary.record_label_gains(stage, record)
    assert stage.numbers == {
        "gain_fcmae_contrast_0_05": (0.01, 40), "gain_fcmae_contrast_0_1": (0.1, 41), "gain_fcmae_contrast_1": (-0.01, 42),
    }  # fmt: skip


def test_three_starts(committed: StudyRecord) -> None:
    record = made(committed, "efficientnet_lite0@pretrained")
    assert summary.labels_title(record) == (
        f"Against a random start: {PUBLISHED} better with 2 and worse with 1, {CONTRAST} better with 1 of 3 shares of the labels"
    )
    first, second, third = summary.labels_summary(record).splitlines()
    assert (
        first
        == f"{PUBLISHED} against {CONTRAST}: better with 5 % and 10 % of the labels; worse with 100 % of the labels."
    )
    assert second.startswith(f"{PUBLISHED} against {SCRATCH}: ") and third.startswith(f"{CONTRAST} against {SCRATCH}: ")
    said = summary.published_summary(record)
    for fact in ("efficientnet_lite0", "1.2 million labelled photographs (ImageNet)", "counted neither", "Apache-2.0"):
        assert fact in said
    table = summary.labels_table(record)
    assert table["share of the labels"].tolist() == ["5 %", "10 %", "100 %"] and table.shape == (3, 4)
    assert table[f"{PUBLISHED} − {CONTRAST}"].iloc[0].startswith("+20.0 [+15.0, +25.0]")


def test_a_third_start_leaves_the_keys_of_the_others_as_they_are(committed: StudyRecord) -> None:
    two, three = Recorder(), Recorder()
    summary.record_label_gains(two, made(committed))
    summary.record_label_gains(three, made(committed, "efficientnet_lite0@pretrained"))
    more = {key: entry for key, entry in three.numbers.items() if key not in two.numbers}
    assert two.numbers.items() <= three.numbers.items()
    assert more["gain_published_weights_over_fcmae_contrast_0_05"] == (0.2, 40)
    assert more["gain_published_weights_over_random_initialisation_1"] == (-0.1, 42) and len(more) == 6


def test_weights_of_another_source_claim_no_imagenet(committed: StudyRecord) -> None:
    dinobloom = summary.published_summary(made(committed, "dinobloom_s@pretrained"))
    assert "ImageNet" not in dinobloom and "Apache-2.0" in dinobloom
    unknown = summary.published_summary(made(committed, "test_resnet"))
    assert "ImageNet" not in unknown and unknown.endswith("Licence of the weights: not stated.")


def test_frozen_features(committed: StudyRecord) -> None:
    record = made(committed)
    assert summary.probes_title(record) == (
        f"Against a random start: {CONTRAST} better in 1, {PIXELS} worse in 1 of 2 probes"
    )
    assert list(summary.probes_table(record)) == [
        "probe", f"{CONTRAST} − colour histogram", f"{CONTRAST} − {SCRATCH}", f"{PIXELS} − {SCRATCH}",
    ]  # fmt: skip


def test_learning_rates(committed: StudyRecord) -> None:
    record = made(committed, "efficientnet_lite0@pretrained")
    assert summary.rates_summary(record) == (
        "Every start, with every share of the labels, had 3 tries: 120 steps with the peak learning rates 0.001, 0.003, "
        "0.009. The rate with the lowest loss on the validation cells of repetition 0 was taken: the lowest for 3, the "
        "highest for 6 of 9 models, for which a rate outside may be better."
    )
    table = summary.rates_table(record)
    assert list(table) == ["share of the labels", SCRATCH, CONTRAST, PUBLISHED]
    assert table.to_numpy().tolist()[1] == ["10 %", "0.001", "0.009", "0.009"]


def test_the_committed_record_reads(committed: StudyRecord) -> None:
    assert committed.params["image_size"] == 96 and PUBLISHED in set(
        committed.table("labels")["arm"]
    )  # as chapter 4 says
    shares = len(committed.params["label_shares"])
    assert f"of {shares} shares of the labels" in summary.labels_title(committed)
    assert len(summary.labels_table(committed)) == shares and "probes" in summary.probes_title(committed)
    assert f"had {len(committed.params['rates'])} tries: " in summary.rates_summary(committed)
    assert len(summary.rates_table(committed)) == shares
    assert summary.labels_summary(committed).count("\n") + 1 == summary.labels_table(committed).shape[1] - 1
