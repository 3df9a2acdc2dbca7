"""Runs of other trackers, read into a store: a file a format, ``intake`` writes what they read."""
