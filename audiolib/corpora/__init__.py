"""Corpora: one file each, with a `fetch` that leaves audio files and lists the clips; `prepare.py` is the way in."""
