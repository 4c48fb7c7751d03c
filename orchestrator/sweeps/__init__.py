"""The sweep files that come with the program."""
