"""Sentences, titles and tables from the record of the study of pretraining, for two or three starts of fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from leuk_lib.runs.recorder import Recorder
from leuk_lib.studies.ladder_summary import describe_rates
from leuk_lib.studies.paired import read_differences, record_differences, verdict
from leuk_lib.studies.pretraining import CONTRAST, PIXELS, PUBLISHED, SCRATCH
from leuk_lib.studies.record import StudyRecord
from leuk_lib.training.pretrained import PUBLISHED as KNOWN
from leuk_lib.training.pretrained import UNKNOWN, split_name

WORDS = {"helps": "better", "harms": "worse", "inconclusive": "not clearly different"}


def percent(share: str) -> str:
    """Write a share of the labels in per cent.

    >>> percent("0.05"), percent("1")
    ('5 %', '100 %')
    """
    return f"{100 * float(share):g} %"


def probes_title(record: StudyRecord) -> str:
    """Say in how many probes the frozen features are better or worse after pretraining than before."""
    return _over_random_start(record.table("gains"), (CONTRAST, PIXELS), "in", "probes")


def labels_title(record: StudyRecord) -> str:
    """Say with how many shares of the labels each start is better or worse than random weights."""
    return _over_random_start(record.table("label_gains"), (PUBLISHED, CONTRAST), "with", "shares of the labels")


def _over_random_start(table: pd.DataFrame, arms: Sequence[str], preposition: str, conditions: str) -> str:
    over = table[table["against"] == SCRATCH]
    parts, n = [], 0
    for arm in arms:
        found = [verdict(row["low"], row["high"]) for row in over[over["arm"] == arm].to_dict("records")]
        counts = {word: found.count(kind) for kind, word in (("helps", "better"), ("harms", "worse"))}
        changes = [f"{word} {preposition} {count}" for word, count in counts.items() if count]
        if found:
            parts.append(f"{arm} {' and '.join(changes) or f'better {preposition} 0'}")
            n = len(found)
    return f"Against a random start: {', '.join(parts)} of {n} {conditions}"


def labels_summary(record: StudyRecord) -> str:
    """Say for each pair of starts with which shares of the labels the first is better, worse or not clearly different."""
    sentences = []
    for (arm, against), part in record.table("label_gains").groupby(["arm", "against"], sort=False):
        shares: dict[str, list[str]] = {}
        for row in part.to_dict("records"):
            shares.setdefault(WORDS[verdict(row["low"], row["high"])], []).append(percent(row["condition"]))
        found = "; ".join(
            f"{word} with {_listed(shares[word])} of the labels" for word in WORDS.values() if word in shares
        )
        sentences.append(f"{arm} against {against}: {found}.")
    return "\n".join(sentences)


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def published_summary(record: StudyRecord) -> str:
    """Say what the published weights of the third start bring: network, training cells, licence; or that there are none."""
    if PUBLISHED not in set(record.table("labels")["arm"]):
        return "No start of this record has published weights; chapter 6 compares them with FCMAE on the same cells."
    network, _ = split_name(record.params["published"])
    known = KNOWN.get(network)
    seen = "1.2 million labelled photographs (ImageNet)" if known and "ImageNet" in known.source else "data of others"
    return (
        f"Published weights are those of another network, {network}, which was trained on {seen}. That training is counted "
        f"neither in the steps nor in the labels. Licence of the weights: {known.licence if known else UNKNOWN}."
    )


def labels_table(record: StudyRecord) -> pd.DataFrame:
    """Format the differences between the starts: a row per share of the labels, a column per pair of starts."""
    table = record.table("label_gains")
    return read_differences(table.assign(condition=table["condition"].map(percent)), "share of the labels")


def rates_summary(record: StudyRecord) -> str:
    """Say how the learning rates of fine-tuning were chosen."""
    return describe_rates(record, "Every start, with every share of the labels,", record.params["tune_steps"])


def rates_table(record: StudyRecord) -> pd.DataFrame:
    """The chosen learning rates: a row per share of the labels, a column per start."""
    trials = record.table("rates")
    chosen = trials[trials["chosen"]].assign(condition=lambda table: table["condition"].map(percent))
    wide = chosen.pivot(index="condition", columns="arm", values="rate")
    wide = wide.reindex(index=chosen["condition"].unique(), columns=chosen["arm"].unique())
    return wide.map("{:g}".format).rename_axis(index="share of the labels", columns=None).reset_index()


def probes_table(record: StudyRecord) -> pd.DataFrame:
    """Format the differences of the probes at the end of pretraining: a row per probe, a column per pair."""
    return read_differences(record.table("gains").assign(p_holm=float("nan")), "probe")


def record_label_gains(stage: Recorder, record: StudyRecord) -> None:
    """Write the differences between the starts into a stage's metrics.

    Keys: ``gain_fcmae_contrast_<share>`` over random weights, whatever else the record holds, and
    ``gain_published_weights_over_<start>_<share>``.
    """
    table, sizes = record.table("label_gains"), record.table("labels")
    third = table["arm"] == PUBLISHED
    for part in (table[~third], table[third]):
        if len(part):
            record_differences(stage, part, sizes)
