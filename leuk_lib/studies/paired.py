"""Arms trained in paired repetitions: scores, differences, and intervals over both seeds and groups."""

from __future__ import annotations

import contextlib
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
from leuk_lib.statistics.bootstrap import ClusterBootstrap, Factor, spread_of, strata_of
from leuk_lib.statistics.intervals import Rate, Spread, difference_interval, format_interval
from leuk_lib.statistics.significance import holm, t_corrected

Array = NDArray[np.float64]
#: Models of the studies, as a reader knows them.
MODELS = {"colour": "colour histogram", "test_resnet": "small ResNet"}


@dataclass(frozen=True)
class Score:
    r"""Mean recall or mean F1 over ``classes`` (names; empty: all classes that occur).

    With :math:`h_k` cells of class k recognised, :math:`n_k` cells of it and :math:`c_k` cells predicted as it,

    .. math:: \mathrm{recall}_k = \frac{h_k}{n_k}, \qquad F_{1,k} = \frac{2 h_k}{n_k + c_k}.

    The mean recall over all classes is the balanced accuracy.
    """

    kind: Literal["recall", "F1"] = "recall"
    classes: tuple[str, ...] = ()

    def of(self, hits: Array, sizes: Array, claimed: Array, labels: NDArray[Any]) -> Array:
        """Compute the score from counts per class.

        Args:
            hits: (...,K) cells of each class that are recognised.
            sizes: (...,K) cells of each class.
            claimed: (...,K) cells predicted as each class; used by F1 only.
            labels: (K,) class names.

        Returns:
            (...) scores in [0, 1]; NaN where no class has a cell.

        >>> Score().of(np.array([1.0, 2.0]), np.array([2.0, 2.0]), np.zeros(2), np.array(["a", "b"])).item()
        0.75
        """
        present = sizes > 0
        if self.classes:
            present = present & np.isin(labels, self.classes)
        below = sizes if self.kind == "recall" else sizes + claimed
        above = hits if self.kind == "recall" else 2 * hits
        each = np.divide(above, below, out=np.zeros_like(hits), where=present)
        count = present.sum(axis=-1).astype(np.float64)
        return np.divide(each.sum(axis=-1), count, out=np.full_like(count, np.nan), where=count > 0)


@dataclass(frozen=True)
class Measured:
    """Scores of all arms under one condition.

    Attributes:
        by_seed: arm -> scores of the seeds (S,).
        resampled: arm -> mean over the seeds in every resample (R,).
        factors: what was drawn: the groups, and the seeds if there are several.
        n: number of test cells over all seeds.
        least: effective number of cells where those of each group are all alike.
        one_answer: arm -> whether it gives the same answer for all cells.
        per_class: whether the score averages over several classes.
    """

    by_seed: dict[str, Array]
    resampled: dict[str, Array]
    factors: list[Factor]
    n: float
    least: float
    one_answer: dict[str, bool]
    per_class: bool

    def rate(self, arm: str) -> Rate:
        """Mean score of an arm over the seeds, with what its interval needs."""
        spread = spread_of(self.resampled[arm], self.factors, self.per_class)
        return Rate(float(self.by_seed[arm].mean()), spread, self.n, self.least, constant=self.one_answer[arm])

    def difference(self, arm: str, other: str) -> Spread:
        """Standard error of the difference of two arms over the same resamples."""
        return spread_of(self.resampled[arm] - self.resampled[other], self.factors, self.per_class)


@dataclass(frozen=True)
class Outcomes:
    """Which test cells each arm classifies correctly.

    Attributes:
        cells: one row per arm, seed, condition and test cell: arm, seed, condition, cell, group, label, right (0 or 1)
            and, for F1, ``predicted``.
        resamples: number of bootstrap resamples R.
        random_seed: seed of the bootstrap.
        score: what is measured; by default balanced accuracy.
    """

    cells: pd.DataFrame
    resamples: int
    random_seed: int
    score: Score = Score()

    @property
    def arms(self) -> list[str]:
        """Names of the arms, in the order of the rows."""
        return list(self.cells["arm"].unique())

    @property
    def conditions(self) -> list[str]:
        """Names of the conditions, in the order of the rows."""
        return list(self.cells["condition"].unique())

    def only(self, *arms: str) -> Outcomes:
        """Return the outcomes of some arms."""
        return replace(self, cells=self.cells[self.cells["arm"].isin(arms)].reset_index(drop=True))

    def measured(self, condition: str) -> Measured:
        """Score every arm under a condition.

        Seeds and groups are resampled independently of each other (the pigeonhole bootstrap, for crossed data): a group
        drawn twice counts twice under every seed that tests it. All arms share the resamples.

        References:
            Owen, A. B. (2007). The pigeonhole bootstrap. Ann. Appl. Stat. 1, 386-411.
        """
        part = self.cells[self.cells["condition"] == condition]
        seeds, groups, labels = (np.unique(part[key].to_numpy(dtype=str)) for key in ("seed", "group", "label"))
        position = [
            np.searchsorted(known, part[key].to_numpy(dtype=str))
            for key, known in zip(("seed", "group", "label"), (seeds, groups, labels), strict=True)
        ]
        over_groups = ClusterBootstrap(groups, self.resamples, numpy_rng(self.random_seed, "paired", condition)).weights
        over_seeds = ClusterBootstrap(seeds, self.resamples, numpy_rng(self.random_seed, "paired", "seeds")).weights
        by_seed, resampled = {}, {}
        for arm in self.arms:
            of_arm = (part["arm"] == arm).to_numpy()
            index = tuple(axis[of_arm] for axis in position)
            hits, sizes, claimed = (np.zeros((len(seeds), len(groups), len(labels))) for _ in range(3))
            np.add.at(hits, index, part["right"].to_numpy(dtype=np.float64)[of_arm])
            np.add.at(sizes, index, 1.0)
            counts = [hits, sizes]
            if self.score.kind == "F1":
                predicted = part["predicted"].to_numpy(dtype=str)[of_arm]
                known = np.isin(predicted, labels)  # no test cell has the other classes
                np.add.at(claimed, (index[0][known], index[1][known], np.searchsorted(labels, predicted[known])), 1.0)
                counts.append(claimed)
            by_seed[arm] = self._score([table.sum(axis=1) for table in counts], labels)
            drawn = [np.tensordot(over_groups.astype(np.float64), table, axes=(1, 1)) for table in counts]  # (R,S,K)
            each = self._score(drawn, labels)  # (R,S)
            resampled[arm] = (each * over_seeds).sum(axis=1) / over_seeds.sum(axis=1)
        strata = strata_of(position[1], part["label"])
        factors = [Factor(over_groups, strata)]
        if len(seeds) > 1:
            factors.append(Factor(over_seeds, np.zeros(len(seeds), dtype=np.int64)))
        one_answer = {arm: _one_answer(part[part["arm"] == arm]) for arm in self.arms}
        least = float(len(labels) * np.bincount(strata).min()) if strata.any() else float(len(groups))
        return Measured(by_seed, resampled, factors, len(part) / len(self.arms), least, one_answer, len(labels) > 1)

    def _score(self, counts: list[Array], labels: NDArray[Any]) -> Array:
        return self.score.of(counts[0], counts[1], counts[-1], labels)

    def is_split(self, condition: str) -> bool:
        """Whether the seeds test different cells, so that they are random splits of the same data."""
        part = self.cells[(self.cells["condition"] == condition) & (self.cells["arm"] == self.arms[0])]
        return part.groupby("seed")["cell"].agg(frozenset).nunique() > 1

    def size(self, condition: str) -> dict[str, int]:
        """Count the test cells over all seeds, the groups and the seeds of a condition."""
        part = self.cells[(self.cells["condition"] == condition) & (self.cells["arm"] == self.arms[0])]
        return {"n": len(part), "groups": part["group"].nunique(), "seeds": part["seed"].nunique()}


def _one_answer(cells: pd.DataFrame) -> bool:
    """Whether an arm gets all cells of one class right and no other, in every seed: one answer for all."""
    recall = cells.groupby(["seed", "label"])["right"].mean().unstack()
    return recall.shape[1] > 1 and bool(recall.isin([0.0, 1.0]).all(axis=None) and (recall.sum(axis=1) == 1).all())


def hits_row(
    cells: Iterable[object], groups: Iterable[object], labels: Iterable[object], right: NDArray[Any]
) -> dict[str, str]:
    """Pack the test cells of one arm, seed and condition into plain text, as :func:`cells_of` reads it.

    >>> hits_row([3, 4], ["p", "q"], [0, 1], np.array([True, False]))
    {'cell': '3,4', 'group': 'p,q', 'label': '0,1', 'right': '10'}
    """
    columns = {"cell": cells, "group": groups, "label": labels}
    packed = {name: ",".join(map(str, values)) for name, values in columns.items()}
    return packed | {"right": "".join(map(str, np.asarray(right).astype(int)))}


def cells_of(rows: Sequence[Mapping[str, Any]], keys: Sequence[str] = ("arm", "seed", "condition")) -> pd.DataFrame:
    """Unpack rows of :func:`hits_row` to one row per test cell, for :class:`Outcomes`; ``keys`` are passed on."""
    parts = []
    for row in rows:
        frame = pd.DataFrame({key: row[key].split(",") for key in ("cell", "group", "label")})
        frame["right"] = [int(hit) for hit in row["right"]]
        parts.append(frame.assign(**{key: row[key] for key in keys}))
    return pd.concat(parts, ignore_index=True)


def scores(outcomes: Outcomes) -> pd.DataFrame:
    """Return one row per condition and arm: value (mean score over the seeds), low, high, n, groups, seeds."""
    rows = []
    for condition in outcomes.conditions:
        measured = outcomes.measured(condition)
        for arm in outcomes.arms:
            rate = measured.rate(arm)
            low, high = rate.interval()
            rows.append(
                {"condition": condition, "arm": arm, "value": rate.value, "low": low, "high": high}
                | outcomes.size(condition)
            )
    return pd.DataFrame(rows)


def differences(outcomes: Outcomes, base: Mapping[str, str], test_over_train: float) -> pd.DataFrame:
    """Compare each arm with its base arm.

    Args:
        outcomes: what the arms classify correctly.
        base: arm -> the arm that it is compared with; an arm that is its own base gets no row.
        test_over_train: size of the test part over that of the training part.

    Returns:
        One row per condition and arm: condition, arm, against, value (mean difference over the seeds), low, high (95 %
        interval over groups and seeds, `difference_interval`), p (corrected t-test over the seeds' splits; NaN where all seeds test the
        same cells or agree exactly), p_holm (Holm over the whole table; see :func:`unadjusted` for a table without).

    References:
        Nadeau, C. and Bengio, Y. (2003). Inference for the generalization error. Mach. Learn. 52, 239-281.
    """
    return with_holm([unadjusted(outcomes, base, test_over_train)])


def unadjusted(outcomes: Outcomes, base: Mapping[str, str], test_over_train: float) -> pd.DataFrame:
    """Return the table of `differences` without p_holm."""
    rows = []
    for condition in outcomes.conditions:
        measured = outcomes.measured(condition)
        by_seed = measured.by_seed
        split = outcomes.is_split(condition)
        for arm in outcomes.arms:
            against = base[arm]
            if against == arm:
                continue
            low, high = difference_interval(
                measured.rate(arm), measured.rate(against), measured.difference(arm, against)
            )
            p = float("nan")
            if split:
                with contextlib.suppress(LeukError):  # no variance between the seeds
                    p = t_corrected(by_seed[arm], by_seed[against], test_over_train).p
            value = float((by_seed[arm] - by_seed[against]).mean())
            rows.append(
                {"condition": condition, "arm": arm, "against": against, "value": value, "low": low, "high": high, "p": p}
            )  # fmt: skip
    return pd.DataFrame(rows)


def between(outcomes: Outcomes, pairs: Iterable[tuple[str, str]], test_over_train: float) -> pd.DataFrame:
    """Return `differences` of the first arm of each pair from the second; Holm over all pairs and conditions."""
    return with_holm(
        [unadjusted(outcomes.only(arm, other), {arm: other, other: other}, test_over_train) for arm, other in pairs]
    )


def with_holm(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Join tables of differences, with Holm over all rows."""
    whole = pd.concat(tables, ignore_index=True)
    return whole.assign(p_holm=holm(whole["p"]))


def verdict(low: float, high: float) -> str:
    """Read the interval of a difference: "helps", "harms" or "inconclusive".

    >>> verdict(0.1, 0.2), verdict(-0.1, 0.0)
    ('helps', 'inconclusive')
    """
    return "helps" if low > 0 else "harms" if high < 0 else "inconclusive"


def with_model_names(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table whose conditions end with a model's name as a reader knows it.

    >>> with_model_names(pd.DataFrame({"condition": ["slides differ, test_resnet", "test"]}))["condition"].tolist()
    ['slides differ, small ResNet', 'test']
    """

    def named(condition: str) -> str:
        where, comma, model = condition.rpartition(", ")
        return where + comma + MODELS.get(model, model)

    return table.assign(condition=table["condition"].map(named))


def read_differences(table: pd.DataFrame, heading: str = "test images") -> pd.DataFrame:
    """Format `differences` for readers: a row per condition (under ``heading``), a column per pair of arms.

    A cell holds percentage points, the interval and Holm's p.
    """
    cells = [
        format_interval(100 * value, 100 * low, 100 * high, "+.1f") + ("" if np.isnan(p) else f", p {p:.2g}")
        for value, low, high, p in table[["value", "low", "high", "p_holm"]].to_numpy(dtype=np.float64)
    ]
    return _wide(table.assign(arm=table["arm"] + " − " + table["against"]), cells, heading)


def read_scores(table: pd.DataFrame, heading: str = "test images") -> pd.DataFrame:
    """Format `scores` for readers: a row per condition (under ``heading``), a column per arm, per cent and interval."""
    cells = [
        format_interval(100 * value, 100 * low, 100 * high, ".1f")
        for value, low, high in table[["value", "low", "high"]].to_numpy(dtype=np.float64)
    ]
    return _wide(table, cells, heading)


def _wide(table: pd.DataFrame, cells: list[str], heading: str) -> pd.DataFrame:
    wide = table.assign(text=cells).pivot(index="condition", columns="arm", values="text")
    wide = wide.loc[list(dict.fromkeys(table["condition"])), list(dict.fromkeys(table["arm"]))]
    return wide.rename_axis(columns=None, index=heading).reset_index()


def summary(table: pd.DataFrame, conditions: str = "kinds of test images") -> str:
    """Count, for each pair of arms, the ``conditions`` under which the first helps, harms or is inconclusive."""
    sentences = []
    for (arm, against), part in table.groupby(["arm", "against"], sort=False):
        verdicts = [verdict(low, high) for low, high in part[["low", "high"]].to_numpy(dtype=np.float64)]
        counts = [
            f"{word} in {verdicts.count(word)} ({', '.join(np.array(part['condition'])[np.array(verdicts) == word])})"
            for word in ("helps", "harms")
            if word in verdicts
        ]
        rest = f"inconclusive in {verdicts.count('inconclusive')}"
        sentences.append(f"{arm} against {against}, of {len(verdicts)} {conditions}: {'; '.join([*counts, rest])}.")
    return "\n".join(sentences)


def record_differences(stage: Recorder, table: pd.DataFrame, sizes: pd.DataFrame) -> None:
    """Write differences into a stage's metrics; n counts test cells over all seeds.

    Keys: ``gain_<arm>_<condition>``, or ``gain_<arm>_over_<other>_<condition>`` where an arm is compared with several.
    """
    n = sizes.drop_duplicates("condition").set_index("condition")["n"]
    several = table.groupby("arm")["against"].nunique().max() > 1
    for row in table.to_dict("records"):
        against = f" over {row['against']}" if several else ""
        key = re.sub(r"[^a-z0-9]+", "_", f"gain {row['arm']}{against} {row['condition']}".lower()).strip("_")
        stage.record(key, float(row["value"]), float(row["low"]), float(row["high"]), int(n[row["condition"]]))
