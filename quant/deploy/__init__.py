"""The exported model and the runtimes that run it."""
