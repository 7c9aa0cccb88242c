"""The book: checks that chapters were executed, turns run cards and metrics into pages, and calls Sphinx."""
