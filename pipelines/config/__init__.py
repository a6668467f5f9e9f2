"""The typed configuration of every command, and the way to it: presets, YAML files, flags."""
