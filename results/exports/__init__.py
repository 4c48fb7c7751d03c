"""Tables for papers: `paper_table.py` says what is in them, the other files how each format writes it."""
