"""RWKV-4, a recurrent language model, with its matrix products on the NPU."""
