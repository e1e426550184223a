"""Classify an image with a TFLite model on the NPU: python classification.py --help."""

import sys

from delegate.tools.guard import run_guarded


def classify() -> int:
    """Imported here, so that the guarding process stays small and has no threads when it forks."""
    from delegate.tools.classify import main

    return main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(run_guarded("classification.py", classify))
