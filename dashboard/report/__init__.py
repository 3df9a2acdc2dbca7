"""A run as one HTML file that needs nothing else: read from the store, laid out, and written or served."""
