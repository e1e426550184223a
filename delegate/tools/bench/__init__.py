"""``python -m delegate bench``: how fast the NPU is beside the CPU, measured on a board or modelled without one."""
