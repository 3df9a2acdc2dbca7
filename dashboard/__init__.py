"""Show: Dash pages as thin callbacks over pure figure functions. Never torch."""
