"""Settings as frozen values; no torch."""
