"""Bootstrap over groups, confidence intervals and tests of difference, for everything that compares or judges."""
