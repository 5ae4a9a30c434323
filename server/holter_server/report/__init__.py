"""Reports of a comparison for people: Markdown and a self-contained HTML page, from the answer of POST /compare."""
