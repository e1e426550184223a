"""What ``python -m delegate accuracy`` does: the NPU against an integer model of the silicon and against TFLite."""
