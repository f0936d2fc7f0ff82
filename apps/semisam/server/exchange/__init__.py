"""``main.py export`` and ``main.py import``: labels of the study out, and labels of other programs in."""
