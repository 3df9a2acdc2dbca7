"""Live mirrors: what goes to the store goes to the user's own tracker too. One file a tracker; ``registry`` finds them."""
