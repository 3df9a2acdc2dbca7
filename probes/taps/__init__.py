"""What sees: hooks and modes that exist only during a sampled step, and the taps in compiled graphs."""
