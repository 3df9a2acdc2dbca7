"""Where users already are, a file a framework: model, optimizer, steps and checkpoints are taken from it (docs/integrations.md)."""
