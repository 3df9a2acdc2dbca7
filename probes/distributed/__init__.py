"""What several ranks do together: meeting, exchanging what they measured, reducing over sharded weights."""
