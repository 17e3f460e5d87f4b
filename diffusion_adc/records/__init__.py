"""Cohorts and tumor maps on disk: the one way in and out of the files other programs rely on."""
