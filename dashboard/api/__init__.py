"""The HTTP API under ``/api/v1``: the store for scripts and for the command line. The user's view of it: docs/api.md."""
