"""The pages: layouts made of components, without a store. What is live in them is filled by ``sections``."""
