"""The typed configuration of every command, and its sources: presets, YAML files, flags."""
