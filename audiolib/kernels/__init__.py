"""Operators: a folder each, with the contract, a naive version, faster ones, and the cases all are checked on.

Nothing here imports from the rest of the project, but for its error type.
"""
