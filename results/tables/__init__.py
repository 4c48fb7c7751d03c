"""Predictions -> tables: one file a table; `build.py` puts them together."""
