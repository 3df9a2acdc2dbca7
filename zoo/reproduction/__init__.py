"""``foreshock reproduce``: the low-precision failure, its controls and its cure, measured again on this machine."""
