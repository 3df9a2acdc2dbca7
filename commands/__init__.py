"""The commands that stand in no room of their own: those about runs, alerts and captures, the page, the demo, the doctor."""
