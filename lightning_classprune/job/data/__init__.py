"""The data sources of the job: a LightningDataModule each, split into train, validation, guard and test."""
