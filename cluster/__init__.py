"""Clusters to run on: for now a Ray head on this machine."""
