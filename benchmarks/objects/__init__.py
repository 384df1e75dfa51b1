"""Objects and units: how well the tests of units keep their level, how long matching takes, what pruned networks find.

python -m benchmarks.objects tables
python -m benchmarks.objects run --data nuclei --root FOLDER --runs RUNS --seeds 11 12 13 14 15
python -m benchmarks.objects run --data blood --root FOLDER --runs RUNS --seeds 11 12 13 14 15
python -m benchmarks.objects matching --root FOLDER

`unit_tests` has the tables, `pruned` the runs and what they came to, `matching` the time that it takes.
"""
