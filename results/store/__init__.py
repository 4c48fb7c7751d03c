"""The only code that knows where a store keeps what, and that opens its files."""
