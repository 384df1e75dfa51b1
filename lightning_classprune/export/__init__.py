"""What leaves: ONNX, compact and sparse networks, checks, the card.

Here: artefacts for other runtimes, made from a finished ticket and verified against the module.
Not here: anything that needs a trainer or a run folder (`job`). Imports `tickets` and what is below it, never `rounds`.
"""
