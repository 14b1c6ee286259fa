"""Measures requests end to end, each beside its floor: `make bench`, or `python -m tests.bench`.

Not tests: nothing here passes or fails. The numbers are medians over several runs of whole client
processes against a real site on loopback; the floors are what no implementation can undercut with
the same tools, measured in the same run.
"""
