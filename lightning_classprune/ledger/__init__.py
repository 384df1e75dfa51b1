"""What is said of a round: rows, text, figure, frame, loggers.

Here: the row of an attempted round, and everything that shows rows to a person or a logger.
Not here: the numbers themselves (`guard`), and the report of a job (`job.report`). Imports `guard`, `pruning`,
`trainer`.
"""
