"""Training of the float model, of QAT and of its control."""
