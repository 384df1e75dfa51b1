"""The running Trainer and its processes: steered, and left as found.

Here: what knows Lightning's loops, callbacks, checkpoints, strategies and random states, and hands them back unchanged.
Not here: anything that knows of a class, a mask or a verdict. Imports no other room.
"""
