"""Tables over seeds: what a configuration loses, and how sure that is."""
