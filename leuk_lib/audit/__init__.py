"""The paper's claims and published figures, and the comparison of a run with a committed reference."""
