"""What quantization did inside the network."""
