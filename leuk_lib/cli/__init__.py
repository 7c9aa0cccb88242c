"""The command line: ``leuk``."""
