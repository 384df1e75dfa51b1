"""`python -m benchmarks.paper`: see `benchmarks.paper.job`."""

from benchmarks.paper.job import main

main()
