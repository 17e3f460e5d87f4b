"""Whole volumes from a stage: K draws, then measured ADC × presence with intervals."""
