"""`tune`: the sampling of a sweep, its trials, and its driver."""
