"""A network kept: packed, in a file, on a ladder.

Here: masks and weights of an accepted round in memory, in checkpoints and in files, and the way back into a module.
Not here: formats for other runtimes (`export`). Imports `ledger` and what is below it.
"""
