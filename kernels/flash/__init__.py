"""FlashAttention-2 in Triton, forward and backward, with its rounding under control. The way in is ``launch``."""
