"""Arrays in, arrays out: intervals, tests, floors. No files, no tables, no names of groups."""
