"""The arithmetic of the published figures: five values a model, recomputed, corrected, and held against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from leuk_lib.audit.claims import CANNOT, NOT_REPRODUCED, REPRODUCED, Published
from leuk_lib.runs.recorder import Recorder
from leuk_lib.statistics import significance
from leuk_lib.statistics.intervals import wilson

Values = Mapping[str, Mapping[str, Sequence[float]]]  # model -> metric -> one value a run


def t_tests(
    values: Values, reported: Sequence[Mapping[str, Any]], proposed: str, train_part: float = 0.8
) -> pd.DataFrame:
    """Every reported comparison, recomputed.

    ``reported`` rows have versus, metric, difference, p, and p_below where only a bound was printed. Columns: versus,
    metric, difference reported and computed, p reported, and p of the unpaired, the paired and the Nadeau-Bengio
    corrected test (for ``train_part`` of the cells in training), the last also after Holm over all rows; "same p" tells
    whether the unpaired p agrees with the reported one in every printed digit (or obeys the printed bound).
    """
    ratio = (1 - train_part) / train_part
    rows = []
    for line in reported:
        a, b = values[proposed][line["metric"]], values[line["versus"]][line["metric"]]
        unpaired = significance.t_unpaired(a, b)
        same = unpaired.p < line["p_below"] if "p_below" in line else round(unpaired.p, 6) == round(line["p"], 6)
        computed = float(np.mean(a) - np.mean(b))
        rows.append(
            {"versus": line["versus"], "metric": line["metric"],
             "difference reported": line["difference"], "difference computed": computed,
             "same difference": abs(computed - line["difference"]) <= 0.0005 + 1e-9,
             "p reported": f"< {line['p_below']:f}" if "p_below" in line else f"{line['p']:f}",
             "p unpaired": unpaired.p, "same p": bool(same),
             "p paired": significance.t_paired(a, b).p,
             "p corrected": significance.t_corrected(a, b, ratio).p}
        )  # fmt: skip
    table = pd.DataFrame(rows)
    table[["same difference", "same p"]] = table[["same difference", "same p"]].replace({True: "yes", False: "no"})
    table["p corrected, Holm"] = significance.holm(table["p corrected"])
    return table


def f1_bound(recall: float | NDArray[np.float64]) -> float | NDArray[np.float64]:
    """Largest macro F1 (in [0,1]) that a macro recall in [0,1] allows: 2R/(1+R).

    Per class F1 = 2PR/(P+R) <= 2R/(1+R), since precision is at most 1; the right side is concave in R, so the mean
    over classes obeys it with the mean recall (Jensen). The same holds for averages weighted by class size.
    """
    return 2 * recall / (1 + recall)


def f1_check(values: Values) -> pd.DataFrame:
    """Run by run: model, run, recall, F1, the bound (all in %), and whether F1 exceeds it."""
    rows = []
    for model, lists in values.items():
        for run, (recall, f1) in enumerate(zip(lists["recall"], lists["f1"], strict=True), 1):
            bound = 100 * float(f1_bound(recall / 100))
            rows.append((model, run, recall, f1, bound, f1 > bound))
    return pd.DataFrame(rows, columns=["model", "run", "recall", "F1", "bound", "exceeds"])


def some_order_fits(recalls: Sequence[float], f1s: Sequence[float]) -> bool:
    """True if the runs of two lists (in %) can be matched in some order so that no F1 exceeds its recall's bound.

    Both sorted is the best that matching can do, since the bound grows with recall.
    """
    bounds = 100 * np.asarray(f1_bound(np.sort(np.asarray(recalls, dtype=float)) / 100))
    return bool((np.sort(np.asarray(f1s, dtype=float)) <= bounds).all())


def margins(values: Values, proposed: str) -> pd.DataFrame:
    """Mean of every model and what the proposed one is ahead by: model, metric, mean, ahead by."""
    rows = []
    for model, metric in product(values, values[proposed]):
        mean = float(np.mean(values[model][metric]))
        rows.append((model, metric, mean, float(np.mean(values[proposed][metric])) - mean))
    return pd.DataFrame(rows, columns=["model", "metric", "mean", "ahead by"])


def orders(values: Values) -> pd.DataFrame:
    """One row a model: runs beyond the bound as listed, and whether another order of the runs has none."""
    check = f1_check(values)
    rows = [
        (model, int(check.loc[check["model"] == model, "exceeds"].sum()), some_order_fits(lists["recall"], lists["f1"]))
        for model, lists in values.items()
    ]
    table = pd.DataFrame(rows, columns=["model", "runs beyond the bound as listed", "some order fits"])
    table["some order fits"] = table["some order fits"].map({True: "yes", False: "no"})
    return table


def margin_table(values: Values, proposed: str) -> pd.DataFrame:
    """``margins`` as people read it: one row a model, the mean and what the proposed one is ahead by for each metric."""
    long = margins(values, proposed)
    table = pd.DataFrame({"model": list(values)})
    for metric in values[proposed]:
        mine = long[long["metric"] == metric].set_index("model").loc[list(values)]
        table[f"{metric}, mean"] = mine["mean"].to_numpy()
        table[f"{metric}, {proposed} ahead by"] = mine["ahead by"].to_numpy()
    return table


def interval_by_size(p: float, marked: int, level: float = 0.95) -> pd.DataFrame:
    """Wilson's interval of an accuracy ``p`` on n independent cells, n = 30 … 10,000 and ``marked``: n, low, high, width."""
    sizes = np.unique([*np.geomspace(30, 10_000, 120).astype(int), marked])
    low, high = np.array([wilson(p * n, n, level) for n in sizes]).T
    return pd.DataFrame({"n": sizes, "low": low, "high": high, "width": high - low})


def figures(public: Published, train_part: float = 0.8, level: float = 0.95) -> dict[str, float]:
    """The audit's figures by name, for verdicts and ``metrics.json``; percentages as they were published."""
    values, proposed = public.values, public.proposed
    tests = t_tests(values, public.comparisons(), proposed, train_part)
    bound = f1_check(values)
    found: dict[str, float] = {
        "p_values_reported": len(tests), "p_values_recomputed": int((tests["same p"] == "yes").sum()),
        "differences_recomputed": int((tests["same difference"] == "yes").sum()),
        "largest_p_corrected": float(tests["p corrected"].max()),
        "largest_p_corrected_holm": float(tests["p corrected, Holm"].max()),
        "f1_beyond_bound": int(bound["exceeds"].sum()), "f1_pairs": len(bound),
    }  # fmt: skip
    for row in tests.to_dict("records"):
        name = f"{proposed}_{row['versus']}_{row['metric']}"
        for kind in ("p unpaired", "p paired", "p corrected"):
            found[f"{kind.replace(' ', '_')}_{name}"] = float(row[kind])
    for row in margins(values, proposed).to_dict("records"):
        found[f"mean_{row['model']}_{row['metric']}"] = row["mean"]
        if row["model"] != proposed:
            found[f"margin_{row['model']}_{row['metric']}"] = row["ahead by"]
    rivals = [model for model in values if model != proposed]
    found["margin_best_rival_recall"] = min(found[f"margin_{model}_recall"] for model in rivals)
    low, high = wilson(public.accuracy.value * public.accuracy.n, public.accuracy.n, level)
    return found | {"accuracy": public.accuracy.value, "accuracy_low": low, "accuracy_high": high}


def record(stage: Recorder, verdicts: pd.DataFrame, found: Mapping[str, float]) -> None:
    """Put the counts of verdicts and the audit's figures into the stage's metrics."""
    for name in (REPRODUCED, NOT_REPRODUCED, CANNOT):
        stage.record(name.replace(" ", "_"), int((verdicts["verdict"] == name).sum()), None, None, len(verdicts))
    stage.record("published_accuracy", found["accuracy"], found["accuracy_low"], found["accuracy_high"], None)
    for key, value in found.items():
        if not key.startswith("accuracy"):
            stage.record(key, value, None, None, None)
