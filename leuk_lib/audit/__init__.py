"""Audit: the paper's claims, its published figures, and the comparison of a run with its reference."""
