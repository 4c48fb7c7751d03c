"""What to run, in which order and for how long; no torch and no Ray."""
