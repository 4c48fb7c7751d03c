"""How trials run: in this process, or on Ray Tune."""
