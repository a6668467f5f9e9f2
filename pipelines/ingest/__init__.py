"""Raw faces become packed data sets: published formats, paired folders, procedural faces."""
