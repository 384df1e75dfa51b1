"""How soon a search finds how sparse a network the guard accepts, and what the guard accepts falsely on the way.

    python -m benchmarks.search run ...            schedules side by side (`__main__`)
    python -m benchmarks.search.guard run ...      the guard under the adaptive one, replayed

`arms` has what is compared, `runs` trains one, `report` makes table and picture.
"""
