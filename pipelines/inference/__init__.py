"""Exported models at work: scores of a split, label maps of loose images."""
