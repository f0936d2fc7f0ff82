"""Training frameworks of others that a recipe can use in place of our own training; all of them are optional."""
