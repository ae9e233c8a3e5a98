"""Reports of stored runs: tables, charts, the page of ``seal report``, and the test of ``seal compare``.

Reads files only, and no model.
"""
