"""Jobs whose samples hold objects: networks that find them, how they train, and what is looked at in the end.

Here: networks with a loss of their own, the LightningModule around them, and how what they give is read as objects.
Not here: when an object is found (`guard`), where pictures and objects come from (`job.data`), and what of a job is the
same whatever its task (`job`).
"""
