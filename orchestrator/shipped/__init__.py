"""Programs that are shipped with a model; they import nothing of ours."""
