"""ONNX models with their large matrix products on the NPU and everything else in onnxruntime. See docs/onnx.md."""

from delegate.onnx.session import Session

__all__ = ["Session"]
