"""The KV cache as a system of its own: which positions a device keeps."""
