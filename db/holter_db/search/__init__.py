"""The little language in which runs are filtered and ordered: from its text to conditions and orders in SQL.

``tokens`` → ``parser`` (with ``fields`` and ``literals``: what can be asked of a run, and with what) → ``syntax``, a
tree of plain values → ``conditions`` and ``orders``, which are the only ones that know the tables.
"""
