"""Judge TensorRT engines against their ONNX models."""
