"""Benchmarks: what the package costs, delivers and misses, measured.

Each is run from the repository's root, `python -m benchmarks.NAME`, says in its docstring what it measures, and writes
below `results`, or where `--out` says. `support` has what several share. Nothing here is part of the package.
"""
