"""Packed data sets: their manifest and files, the way into them, and the streams that read them on a cluster."""
