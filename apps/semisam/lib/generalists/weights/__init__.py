"""Files of weights: where they lie, how they are fetched and checked, and how they are read."""
