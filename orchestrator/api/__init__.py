"""What every command does, as functions of values: they raise where a command ends with an exit code."""
