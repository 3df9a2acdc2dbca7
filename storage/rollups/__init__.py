"""Rollups: for every 10, 100, 1000, ... consecutive points of a series in a segment, a row that says what was there.

``buckets`` is the arithmetic, ``keeping`` writes rows in the transaction that writes the points, ``reading`` chooses the level that
a chart needs.
"""
