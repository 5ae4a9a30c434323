"""The calls, one module per noun. Each module has a ``router``; none imports another."""
