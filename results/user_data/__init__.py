"""What users bring: predictions, groupings and metrics of their own."""
