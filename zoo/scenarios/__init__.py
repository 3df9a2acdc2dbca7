"""The scenarios, one file a family; found by being here."""
