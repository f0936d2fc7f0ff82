"""What is known about each scan of a study, and which scan was offered to whom."""
