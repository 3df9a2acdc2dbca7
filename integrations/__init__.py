"""Where users already are: a file a framework. Each takes model, optimizer, steps and checkpoints from it; see docs/integrations.md."""
