"""Starts a Ray head and an S3 server on this machine; the files beside describe clusters elsewhere."""
