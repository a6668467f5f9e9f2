"""Packed data sets: manifest, packing, access to row groups, and the streams that decode rows on a cluster."""
