"""The page that a job leaves: report.html, its pictures and the command that writes it anew.

Here: what turns the files of a run folder into one page that needs no other file.
Not here: the ledger's own text and figure (`ledger`), the run folder (`job.run_folder`), and sweeps (`job.sweep`).
"""
