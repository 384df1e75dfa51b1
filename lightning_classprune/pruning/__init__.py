"""What is cut, and stays cut.

Here: prunable parameters, criteria, granularities, the exact selection, masks and the hooks that hold them.
Not here: whether a cut is allowed (`guard`), and how far to cut next (`rounds`). Imports `trainer` only.
"""
