"""The paper's experiment: data sets, arms, seeds and densities, from training to the report.

    python -m benchmarks.paper ...                 one job, or many (`job`)
    python -m benchmarks.paper.tuning RUNS         what the search for settings found
    python -m benchmarks.paper.report RUNS         tables and figures

`conf` has data sets, arms and stages; `arms`, `saliency` and `data` what they name beyond the package; `rounds` and
`files` what a job keeps; `measures`, `tables` and `figures` what is made of it.
"""
