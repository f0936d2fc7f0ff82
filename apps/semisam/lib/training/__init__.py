"""The training loop that all recipes share, its samples, and the assistants that may help."""
