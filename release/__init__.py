"""Wheels for both architectures, and an emulated board to try them and other people's programs on."""
