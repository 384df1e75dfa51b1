"""One fit: settings, plan, run, clock, rewind, search, resume.

Here: which round comes next, what is restored before it, and the transaction that commits or rolls it back.
Not here: Lightning's events themselves (`callback`), and how anything is measured. Imports every room but
`export` and `job`.
"""
