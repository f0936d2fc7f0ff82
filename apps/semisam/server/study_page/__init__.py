"""The study in a browser, under ``/semisam/``: the scans, one scan, the work, and the first steps."""
