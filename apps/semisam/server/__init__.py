"""What ties the methods in ``lib`` to MONAI Label, besides the tasks themselves."""
