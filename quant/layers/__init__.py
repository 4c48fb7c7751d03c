"""Quantized layers: what they compute, how their batch norms fold in, and what is said of them."""
