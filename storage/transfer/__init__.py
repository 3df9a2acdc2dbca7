"""Moving history in and out of a store: imports, exports, archives, and live mirrors to other trackers."""
