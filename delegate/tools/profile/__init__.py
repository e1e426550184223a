"""``python -m delegate profile``: modelled cycles, bytes and seconds of a program, layer by layer."""
