"""Weights of language models: checkpoints in, matrices in the NPU's layout out. See docs/language-models.md."""
