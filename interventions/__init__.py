"""Act: what the monitor does to a run when it was asked to. Nothing here happens unless ``watch(interventions=...)`` names it."""
