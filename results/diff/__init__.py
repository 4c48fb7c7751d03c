"""Two stores: which configurations are the same, and what they differ by."""
