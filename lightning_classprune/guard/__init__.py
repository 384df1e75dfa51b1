"""What is judged, on which data, and how surely.

Here: the guard's data, the outcomes of a pass over them, the exact tests, tolerances, verdicts and the error budget.
Not here: what is pruned (`pruning`), and when a round is judged (`rounds`). Imports `trainer` only.
"""
