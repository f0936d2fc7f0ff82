"""Training, batch inference and scoring as processes of their own: how they start, report and end."""
