"""The live parts of the pages: each reads the store, paints itself, and then tells what changed."""
