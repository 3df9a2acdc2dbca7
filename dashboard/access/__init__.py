"""Who may open the dashboard, and what they may do there. The user's view of it: docs/security.md."""
