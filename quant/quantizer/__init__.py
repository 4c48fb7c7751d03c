"""From observed values to a grid, and the grid itself."""
