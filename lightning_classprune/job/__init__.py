"""The ready-made job `classprune`, and the commands beside it.

Here: the Hydra application, its data (`data`), its report (`report`) and its sweeps (`sweep`).
Not here: anything that a user of the callback alone needs. Nothing outside imports this room.
"""
