"""Typed, strict mirror of params.yaml and the presets; the only way a program reads its settings.

Each section has its own file, so that a stage depends only on the sections it reads.
"""
