"""`tune`: what a sweep samples, its trials, and its driver."""
