"""Clusters that the project runs on: a Ray head and an S3 server on this machine, and the demo on them."""
