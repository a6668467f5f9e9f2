"""All that a running command needs: a Ray session, ownership of its output, the layout of the output, logs."""
