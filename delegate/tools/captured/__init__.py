"""Captures of the upstream driver and of other programs, run and judged: the parts of ``python -m delegate replay``."""
