"""Tables for papers: `tables.py` says what is in them, the other files how each format writes it."""
