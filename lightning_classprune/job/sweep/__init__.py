"""What many jobs say together: the summary of a sweep, its figures and the command that writes it anew.

Here: what reads the run folders of a sweep and compares them.
Not here: starting the jobs of a sweep (`job.jobs`), and the report of one of them (`job.report`).
"""
