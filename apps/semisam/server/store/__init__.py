"""A study: its scans and labels as MONAI Label datastores, and as the tasks see it."""
