"""Benchmarks: `python -m audiolib.bench`, everything against the peer that a user would pick instead, in one run.

Each checks that the results are right before it takes any time.
"""
