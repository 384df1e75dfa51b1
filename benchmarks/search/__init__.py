"""How soon a search finds how sparse a network the guard accepts, and what the guard accepts falsely on the way.

    python -m benchmarks.search run ...            schedules side by side (`__main__`)
    python -m benchmarks.search.guard run ...      the guard under the adaptive one, replayed
    python -m benchmarks.search.both_sides run ... what the ready-made job delivers, beside what people do without it

`arms` has what is compared, `runs` trains one, `report` makes table and picture; `controls` are ways to prune without
this package.
"""
