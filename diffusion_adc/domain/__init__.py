"""The field's words and rules: numpy only, no torch, no I/O libraries."""
