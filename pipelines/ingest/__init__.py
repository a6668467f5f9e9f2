"""Converts raw faces to packed data sets: published formats, folders of images and labels, procedural faces."""
