"""Whose data this is and who may use it: de-identification, sealed hand-over, lineage, withdrawal."""
