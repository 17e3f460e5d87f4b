"""Scores of tumor maps: lesions, agreement, calibration and paired intervals; pure functions on arrays."""
