"""One trial, from its spec to its row. Read `run.py` first."""
