"""Figures: data frames and arrays in, matplotlib figures out. No computation of results."""
