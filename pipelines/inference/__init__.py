"""Applies exported models: scores of a split, and label maps of single images."""
