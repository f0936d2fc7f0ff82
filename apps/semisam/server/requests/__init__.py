"""Requests: checked before MONAI Label acts on them, and answered."""
