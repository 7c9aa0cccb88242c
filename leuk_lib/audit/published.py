r"""Arithmetic on the published figures: t-tests, a bound of F1 by recall, margins, and the interval of the accuracy.

The description gives five values per model and metric. For one class, precision is at most 1, so

.. math:: F_1 = \frac{2 P R}{P + R} \le \frac{2 R}{1 + R}.

The right side is concave in R; by Jensen's inequality the macro F1 of a run is therefore at most
:math:`2 \bar R / (1 + \bar R)` with :math:`\bar R` its macro recall. The same holds for averages weighted by class size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from leuk_lib.audit.claims import Published
from leuk_lib.statistics import significance
from leuk_lib.statistics.intervals import wilson

Values = Mapping[str, Mapping[str, Sequence[float]]]  # model -> metric -> one value per run


def t_tests(
    values: Values, reported: Sequence[Mapping[str, Any]], proposed: str, train_part: float = 0.8
) -> pd.DataFrame:
    """Recompute each reported comparison of the proposed model with another one.

    Args:
        values: the published values.
        reported: mappings with versus, metric, difference and p, or p_below if only a bound was printed.
        proposed: name of the proposed model.
        train_part: share of the cells in training, for the corrected test.

    Returns:
        Columns versus, metric, difference reported, difference computed, same difference, p reported, p of the unpaired
        test, same p (equal in all printed digits, or within the printed bound), p of the paired and of the Nadeau-Bengio
        corrected test, and the last after Holm over all rows.
    """
    ratio = (1 - train_part) / train_part
    rows = []
    for line in reported:
        a, b = values[proposed][line["metric"]], values[line["versus"]][line["metric"]]
        p = float(stats.ttest_ind(a, b).pvalue)
        same = p < line["p_below"] if "p_below" in line else round(p, 6) == round(line["p"], 6)
        computed = float(np.mean(a) - np.mean(b))
        rows.append(
            {"versus": line["versus"], "metric": line["metric"],
             "difference reported": line["difference"], "difference computed": computed,
             "same difference": abs(computed - line["difference"]) <= 0.0005 + 1e-9,
             "p reported": f"< {line['p_below']:f}" if "p_below" in line else f"{line['p']:f}",
             "p unpaired": p, "same p": bool(same),
             "p paired": float(stats.ttest_rel(a, b).pvalue),
             "p corrected": significance.t_corrected(a, b, ratio).p}
        )  # fmt: skip
    table = pd.DataFrame(rows)
    table[["same difference", "same p"]] = table[["same difference", "same p"]].replace({True: "yes", False: "no"})
    table["p corrected, Holm"] = significance.holm(table["p corrected"])
    return table


def f1_bound(recall: float | NDArray[np.float64]) -> float | NDArray[np.float64]:
    r"""Largest macro F1 that a macro recall R allows, :math:`2R / (1 + R)`, both in [0, 1]; see the module.

    >>> round(f1_bound(0.9442), 4)
    0.9713
    """
    return 2 * recall / (1 + recall)


def f1_check(values: Values) -> pd.DataFrame:
    """Published F1 of each run against its bound: model, run, recall, F1, bound (all in %), exceeds (bool)."""
    rows = []
    for model, lists in values.items():
        for run, (recall, f1) in enumerate(zip(lists["recall"], lists["f1"], strict=True), 1):
            bound = 100 * float(f1_bound(recall / 100))
            rows.append((model, run, recall, f1, bound, f1 > bound))
    return pd.DataFrame(rows, columns=["model", "run", "recall", "F1", "bound", "exceeds"])


def some_order_fits(recalls: Sequence[float], f1s: Sequence[float]) -> bool:
    """True if some order of the runs leaves no F1 above the bound of its recall (both lists in %).

    It is enough to try both lists sorted, because the bound increases with recall.

    >>> some_order_fits([50.0, 60.0], [74.0, 60.0]), some_order_fits([50.0, 60.0], [76.0, 60.0])
    (True, False)
    """
    bounds = 100 * np.asarray(f1_bound(np.sort(np.asarray(recalls, dtype=float)) / 100))
    return bool((np.sort(np.asarray(f1s, dtype=float)) <= bounds).all())


def orders(values: Values) -> pd.DataFrame:
    """Per model: number of runs beyond the bound as listed, and whether another order of the runs has none."""
    check = f1_check(values)
    rows = [
        (
            model,
            int(check.loc[check["model"] == model, "exceeds"].sum()),
            "yes" if some_order_fits(lists["recall"], lists["f1"]) else "no",
        )
        for model, lists in values.items()
    ]
    return pd.DataFrame(rows, columns=["model", "runs beyond the bound as listed", "some order fits"])


def margins(values: Values, proposed: str) -> pd.DataFrame:
    """Mean of each model and metric, and the lead of the proposed model: model, metric, mean, ahead by."""
    rows = []
    for model, metric in product(values, values[proposed]):
        mean = float(np.mean(values[model][metric]))
        rows.append((model, metric, mean, float(np.mean(values[proposed][metric])) - mean))
    return pd.DataFrame(rows, columns=["model", "metric", "mean", "ahead by"])


def margin_table(values: Values, proposed: str) -> pd.DataFrame:
    """`margins` with one row per model, and two columns per metric."""
    long = margins(values, proposed)
    table = pd.DataFrame({"model": list(values)})
    for metric in values[proposed]:
        rows = long[long["metric"] == metric].set_index("model").loc[list(values)]
        table[f"{metric}, mean"] = rows["mean"].to_numpy()
        table[f"{metric}, {proposed} ahead by"] = rows["ahead by"].to_numpy()
    return table


def interval_by_size(p: float, marked: int, level: float = 0.95) -> pd.DataFrame:
    """Wilson's interval of an accuracy ``p`` for n = 80 to 10,000 independent cells, ``marked`` among them.

    On fewer cells it covers some rates less than 93 % of the time.

    Returns:
        Columns n, low, high, width.
    """
    sizes = np.unique([*np.geomspace(80, 10_000, 120).astype(int), marked])
    low, high = np.array([wilson(p * n, n, level) for n in sizes]).T
    return pd.DataFrame({"n": sizes, "low": low, "high": high, "width": high - low})


def figures(public: Published, train_part: float = 0.8, level: float = 0.95) -> dict[str, float]:
    """All figures of the audit by name, for verdicts and ``metrics.json``; percentages as published.

    Args:
        public: the published figures.
        train_part: share of the cells in training, for the corrected test.
        level: coverage of the interval of the accuracy.
    """
    values, proposed = public.values, public.proposed
    tests = t_tests(values, public.comparisons(), proposed, train_part)
    bound = f1_check(values)
    audit: dict[str, float] = {
        "p_values_reported": len(tests), "p_values_recomputed": int((tests["same p"] == "yes").sum()),
        "differences_recomputed": int((tests["same difference"] == "yes").sum()),
        "largest_p_corrected": float(tests["p corrected"].max()),
        "largest_p_corrected_holm": float(tests["p corrected, Holm"].max()),
        "f1_beyond_bound": int(bound["exceeds"].sum()), "f1_pairs": len(bound),
    }  # fmt: skip
    for row in tests.to_dict("records"):
        name = f"{proposed}_{row['versus']}_{row['metric']}"
        for kind in ("p unpaired", "p paired", "p corrected"):
            audit[f"{kind.replace(' ', '_')}_{name}"] = float(row[kind])
    for row in margins(values, proposed).to_dict("records"):
        audit[f"mean_{row['model']}_{row['metric']}"] = row["mean"]
        if row["model"] != proposed:
            audit[f"margin_{row['model']}_{row['metric']}"] = row["ahead by"]
    audit["margin_best_baseline_recall"] = min(audit[f"margin_{model}_recall"] for model in values if model != proposed)
    low, high = wilson(public.accuracy.value * public.accuracy.n, public.accuracy.n, level)
    return audit | {"accuracy": public.accuracy.value, "accuracy_low": low, "accuracy_high": high}
