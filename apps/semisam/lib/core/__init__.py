"""What everything stands on: geometry, labels, files, devices, errors."""
