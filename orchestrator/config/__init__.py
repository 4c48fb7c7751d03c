"""The sweep file: read, checked, and every error said at once; no torch and no Ray."""
