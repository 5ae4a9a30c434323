"""The verdict on a candidate beside a baseline: pure functions of recorded numbers, criteria and a seed.

Nothing here reads a database, a clock or a file other than the criteria that the package ships. SciPy takes a quarter
of a second to import, so the service imports `holter_server.verdict.judge` when the first comparison is asked for.
"""
