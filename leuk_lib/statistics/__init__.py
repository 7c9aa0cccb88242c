"""Cluster bootstrap, confidence intervals and tests of difference."""
