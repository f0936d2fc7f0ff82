"""Drives a recipe: rounds, resuming, progress and the report."""
