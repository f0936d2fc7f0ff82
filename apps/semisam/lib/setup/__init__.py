"""Settings, the command line, and the demo study."""
