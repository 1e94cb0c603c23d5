"""onnxruntime as a network on the lanes."""
