"""Further experts' labels of the cells: brought to the spelling of the classes, and counted."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd

from leuk_lib.data.catalog import plain
from leuk_lib.data.findings import Finding


def label_columns(table: pd.DataFrame) -> list[str]:
    """Return the columns of a cell table that hold further labels, such as ``["label2"]``; columns without any are left out."""
    names = [str(name) for name in table.columns if re.fullmatch(r"label[2-9]", str(name))]
    return [name for name in sorted(names) if (table[name].astype(str) != "").any()]


def spelled_as_classes(table: pd.DataFrame, classes: Sequence[str]) -> tuple[pd.DataFrame, list[Finding], list[str]]:
    """Give further labels the spelling of the class that they mean: "Aml " becomes "AML".

    A difference of spelling would count as a disagreement of experts. A label that is no class of the data set is kept,
    because it is one.

    Args:
        table: One row per cell.
        classes: Names of the classes.

    Returns:
        The table, findings about labels that are no class, and notes that count the labels; a table without further labels
        comes back as it is.
    """
    names = {plain(name): name for name in classes}
    findings, notes = [], []
    for column in label_columns(table):
        given = table[column].astype(str).str.strip()
        spelled = given.map(lambda text: names.get(plain(text), text) if text else "")
        table = table.assign(**{column: spelled})
        notes.append(f"{column}: a further label of {int((spelled != '').sum())} of {len(table)} cells")
        foreign = spelled[(spelled != "") & ~spelled.isin(list(classes))].value_counts()
        if len(foreign):
            shown = ", ".join(f"{name} {n}" for name, n in foreign.head(8).items()) + (
                ", …" if len(foreign) > 8 else ""
            )
            what = f"{column}: {int(foreign.sum())} cells have a label that is no class of this data set ({shown})"
            advice = "they count as disagreement of the experts; --map OLD=NEW renames or merges classes"
            findings.append(Finding(".", what, "info", advice))
    return table, findings, notes
