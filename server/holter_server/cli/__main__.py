"""`python -m holter_server.cli` is `holter`."""

from holter_server.cli import main

main()
