"""`python -m lightning_classprune` is the console script `classprune`."""

from lightning_classprune.job.command import main

if __name__ == "__main__":
    main()
