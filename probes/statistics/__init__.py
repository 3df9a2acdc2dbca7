"""What computes: bounded samples of tensors, singular pairs, attention and rounding recomputed; nothing here waits for a device."""
