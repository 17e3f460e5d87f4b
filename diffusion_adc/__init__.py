"""Tumor-specific ADC maps from body MRI."""

__version__ = "0.1.0"
