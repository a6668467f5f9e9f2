"""Helpers that tests share: commands in separate processes, small data sets, trainings, damaged files, hosts."""
