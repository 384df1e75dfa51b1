"""The data sources of the job: a LightningDataModule each, split into train, validation, guard and test.

Here: what reads samples and labels, and what draws the four parts from them.
Not here: how a guard's loader is found and checked (`guard.data`), and what is done with the data (`job.app`).
"""
