"""The sweep: a plan of content-addressed trials, run inline or by Ray Tune. Start it with `python -m orchestrator`."""
