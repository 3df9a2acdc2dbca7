"""Bring history in, take it out. Nothing of a tracker's is imported until it is asked for."""
