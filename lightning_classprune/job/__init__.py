"""The ready-made job `classprune` and its companions on the command line.

Here: the Hydra application, its data (`data`), its report (`report`) and its sweeps (`sweep`).
Not here: anything that a user of the callback alone needs. Nothing outside imports this room.
"""
