"""Quantization after training: calibration, and the corrections that follow it."""
