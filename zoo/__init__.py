"""Training runs that fail in known ways, and healthy ones: demo, benchmark and test bed."""
