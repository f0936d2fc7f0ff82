"""A log-in of our own for small sites (``--conf users FILE``): passwords, sessions, roles, and who did what."""
