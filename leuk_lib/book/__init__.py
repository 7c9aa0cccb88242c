"""The book: refuses to render what was not executed, and turns cards and metrics into pages.

Sees ``leuk_lib.runs`` and ``leuk_lib.stages`` only; a method's numbers reach it as files of a run.
"""
