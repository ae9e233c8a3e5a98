"""What is stored of runs, read for people: tables, charts, the page of ``seal report``, the test of ``seal compare``.

Reads files only and knows no model; what a page needs of a run's data (its passages) is handed in.
"""
