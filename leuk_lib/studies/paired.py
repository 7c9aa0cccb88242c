"""Arms that were trained in paired repetitions: scores, differences, and intervals that know both sources of chance."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.recorder import Recorder
from leuk_lib.runs.seeds import numpy_rng
from leuk_lib.statistics.bootstrap import ClusterBootstrap, paired_difference, percentile_interval
from leuk_lib.statistics.significance import holm, t_corrected

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Score:
    """What is measured of a test part: mean recall, or mean F1, over ``classes`` (names; empty: all that are there)."""

    kind: Literal["recall", "F1"] = "recall"
    classes: tuple[str, ...] = ()

    def of(self, hits: Array, sizes: Array, claimed: Array, labels: NDArray[Any]) -> Array:
        """From counts (…,K) of cells recognised, there, and taken for the class: (…); NaN where no class is there.

        F1 = 2 hits / (there + claimed), the harmonic mean of precision and recall.
        """
        there = sizes > 0
        if self.classes:
            there = there & np.isin(labels, self.classes)
        below = sizes if self.kind == "recall" else sizes + claimed
        above = hits if self.kind == "recall" else 2 * hits
        each = np.divide(above, below, out=np.zeros_like(hits), where=there)
        count = there.sum(axis=-1).astype(np.float64)
        return np.divide(each.sum(axis=-1), count, out=np.full_like(count, np.nan), where=count > 0)


@dataclass(frozen=True)
class Outcomes:
    """One row an arm, seed, condition and test cell: arm, seed, condition, cell, group, label, right (0 or 1), and,
    for F1, ``predicted``. ``score``: balanced accuracy (mean recall) unless another is asked for."""

    cells: pd.DataFrame
    resamples: int
    random_seed: int
    score: Score = Score()

    @property
    def arms(self) -> list[str]:
        """Names of the arms, in the order they came."""
        return list(dict.fromkeys(self.cells["arm"]))

    @property
    def conditions(self) -> list[str]:
        """Names of the conditions, in the order they came."""
        return list(dict.fromkeys(self.cells["condition"]))

    def only(self, *arms: str) -> Outcomes:
        """The outcomes of some arms."""
        return replace(self, cells=self.cells[self.cells["arm"].isin(arms)].reset_index(drop=True))

    def measured(self, condition: str) -> tuple[dict[str, Array], dict[str, Array]]:
        """The score by arm: of every seed (S,), and the seeds' mean in every resample (R,).

        Seeds and groups are resampled independently of each other (the pigeonhole bootstrap of Owen 2007, for data
        that are crossed): a group drawn twice counts twice under every seed whose test part holds it. All arms see the
        same resamples.
        """
        part = self.cells[self.cells["condition"] == condition]
        seeds, groups, labels = (np.unique(part[key].to_numpy(dtype=str)) for key in ("seed", "group", "label"))
        place = [
            np.searchsorted(known, part[key].to_numpy(dtype=str))
            for key, known in zip(("seed", "group", "label"), (seeds, groups, labels), strict=True)
        ]
        over_groups = ClusterBootstrap(groups, self.resamples, numpy_rng(self.random_seed, "paired", condition)).weights
        over_seeds = ClusterBootstrap(seeds, self.resamples, numpy_rng(self.random_seed, "paired", "seeds")).weights
        by_seed, resampled = {}, {}
        for arm in self.arms:
            mine = (part["arm"] == arm).to_numpy()
            index = tuple(axis[mine] for axis in place)
            hits, sizes, claimed = (np.zeros((len(seeds), len(groups), len(labels))) for _ in range(3))
            np.add.at(hits, index, part["right"].to_numpy(dtype=np.float64)[mine])
            np.add.at(sizes, index, 1.0)
            counts = [hits, sizes]
            if self.score.kind == "F1":
                said = part["predicted"].to_numpy(dtype=str)[mine]
                known = np.isin(said, labels)  # a class that no test cell has is nobody's gain
                np.add.at(claimed, (index[0][known], index[1][known], np.searchsorted(labels, said[known])), 1.0)
                counts.append(claimed)
            by_seed[arm] = self._score([table.sum(axis=1) for table in counts], labels)
            drawn = [np.tensordot(over_groups.astype(np.float64), table, axes=(1, 1)) for table in counts]  # (R,S,K)
            each = self._score(drawn, labels)  # (R,S)
            resampled[arm] = (each * over_seeds).sum(axis=1) / over_seeds.sum(axis=1)
        return by_seed, resampled

    def _score(self, counts: list[Array], labels: NDArray[Any]) -> Array:
        return self.score.of(counts[0], counts[1], counts[-1], labels)

    def is_split(self, condition: str) -> bool:
        """Whether the seeds judge different cells of a condition: only then are their differences those of random splits."""
        part = self.cells[(self.cells["condition"] == condition) & (self.cells["arm"] == self.arms[0])]
        return part.groupby("seed")["cell"].agg(frozenset).nunique() > 1

    def size(self, condition: str) -> dict[str, int]:
        """Test cells over all seeds, different groups, and seeds of a condition."""
        part = self.cells[(self.cells["condition"] == condition) & (self.cells["arm"] == self.arms[0])]
        return {"n": len(part), "groups": part["group"].nunique(), "seeds": part["seed"].nunique()}


def cells_of(rows: Sequence[Mapping[str, Any]], keys: Sequence[str] = ("arm", "seed", "condition")) -> pd.DataFrame:
    """One row a test cell, as `Outcomes` wants it, from a job's rows, which hold many cells each.

    A row's ``cell``, ``group`` and ``label`` are lists with commas, ``right`` a string of 0 and 1; ``keys`` are passed on.
    """
    parts = []
    for row in rows:
        frame = pd.DataFrame({key: row[key].split(",") for key in ("cell", "group", "label")})
        frame["right"] = [int(hit) for hit in row["right"]]
        parts.append(frame.assign(**{key: row[key] for key in keys}))
    return pd.concat(parts, ignore_index=True)


def scores(outcomes: Outcomes) -> pd.DataFrame:
    """One row a condition and arm: the score (mean over seeds), low, high, n, groups, seeds."""
    rows = []
    for condition in outcomes.conditions:
        by_seed, resampled = outcomes.measured(condition)
        for arm in outcomes.arms:
            low, high = percentile_interval(resampled[arm])
            rows.append(
                {"condition": condition, "arm": arm, "value": float(by_seed[arm].mean()), "low": low, "high": high}
                | outcomes.size(condition)
            )
    return pd.DataFrame(rows)


def differences(outcomes: Outcomes, base: Mapping[str, str], test_over_train: float) -> pd.DataFrame:
    """One row a condition and arm other than its ``base``: the difference in score and how sure it is.

    low, high: the crossed bootstrap's 95 % interval; p: the corrected t-test of Nadeau & Bengio over the seeds' splits
    (NaN where all seeds judge the same cells, as on another source, and where all seeds agree); p_holm: Holm over the
    whole table.
    """
    rows = []
    for condition in outcomes.conditions:
        by_seed, resampled = outcomes.measured(condition)
        split = outcomes.is_split(condition)
        for arm in outcomes.arms:
            if base[arm] == arm:
                continue
            low, high, _ = paired_difference(resampled[arm], resampled[base[arm]])
            p = float("nan")
            if split:
                try:
                    p = t_corrected(by_seed[arm], by_seed[base[arm]], test_over_train).p
                except LeukError:
                    p = float("nan")
            difference = float((by_seed[arm] - by_seed[base[arm]]).mean())
            rows.append(
                {
                    "condition": condition,
                    "arm": arm,
                    "against": base[arm],
                    "value": difference,
                    "low": low,
                    "high": high,
                    "p": p,
                }
            )
    table = pd.DataFrame(rows)
    return table.assign(p_holm=holm(table["p"]))


def between(outcomes: Outcomes, compared: Iterable[tuple[str, str]], test_over_train: float) -> pd.DataFrame:
    """`differences` of the first arm of each pair from the second; Holm over all pairs and conditions."""
    return with_holm(
        [differences(outcomes.only(arm, rival), {arm: rival, rival: rival}, test_over_train) for arm, rival in compared]
    )


def with_holm(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Several tables of differences as one, with Holm over all of its rows."""
    whole = pd.concat(tables, ignore_index=True)
    return whole.assign(p_holm=holm(whole["p"]))


def verdict(low: float, high: float) -> str:
    """What an interval of a difference says: "helps", "harms", or "not told apart"."""
    return "helps" if low > 0 else "harms" if high < 0 else "not told apart"


def read_differences(table: pd.DataFrame, heading: str = "test images") -> pd.DataFrame:
    """`differences` as people read it: a row a condition (under ``heading``), a column an arm, percentage points, interval, Holm's p."""
    cells = [
        f"{100 * value:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]" + ("" if np.isnan(p) else f", p {p:.2g}")
        for value, low, high, p in table[["value", "low", "high", "p_holm"]].to_numpy(dtype=np.float64)
    ]
    return _wide(table.assign(arm=table["arm"] + " − " + table["against"]), cells, heading)


def read_scores(table: pd.DataFrame, heading: str = "test images") -> pd.DataFrame:
    """`scores` as people read it: a row a condition (under ``heading``), a column an arm, per cent with interval."""
    cells = [
        f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
        for value, low, high in table[["value", "low", "high"]].to_numpy(dtype=np.float64)
    ]
    return _wide(table, cells, heading)


def _wide(table: pd.DataFrame, cells: list[str], heading: str = "test images") -> pd.DataFrame:
    wide = table.assign(text=cells).pivot(index="condition", columns="arm", values="text")
    wide = wide.loc[list(dict.fromkeys(table["condition"])), list(dict.fromkeys(table["arm"]))]
    return wide.rename_axis(columns=None, index=heading).reset_index()


def in_words(table: pd.DataFrame, conditions: str = "kinds of test images") -> str:
    """The differences counted: for every arm and rival, under how many of the ``conditions`` it helps, harms, or cannot be told apart."""
    said = []
    for (arm, rival), part in table.groupby(["arm", "against"], sort=False):
        found = [verdict(low, high) for low, high in part[["low", "high"]].to_numpy(dtype=np.float64)]
        counts = [
            f"{word} in {found.count(word)} ({', '.join(np.array(part['condition'])[np.array(found) == word])})"
            for word in ("helps", "harms")
            if word in found
        ]
        rest = f"not told apart in {found.count('not told apart')}"
        said.append(f"{arm} against {rival}, of {len(found)} {conditions}: {'; '.join([*counts, rest])}.")
    return "\n".join(said)


def record_differences(stage: Recorder, table: pd.DataFrame, sizes: pd.DataFrame) -> None:
    """Put the differences into a stage's metrics; n counts test cells over all seeds.

    Keys: ``gain_<arm>_<condition>``, or ``gain_<arm>_over_<rival>_<condition>`` where an arm has several rivals.
    """
    n = sizes.drop_duplicates("condition").set_index("condition")["n"]
    several = table.groupby("arm")["against"].nunique().max() > 1
    for row in table.to_dict("records"):
        rival = f" over {row['against']}" if several else ""
        key = re.sub(r"[^a-z0-9]+", "_", f"gain {row['arm']}{rival} {row['condition']}".lower()).strip("_")
        stage.record(key, float(row["value"]), float(row["low"]), float(row["high"]), int(n[row["condition"]]))
