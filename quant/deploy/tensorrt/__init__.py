"""TensorRT: its rules, its engines, and what runs them."""
