"""Cyclical self-regulation: the orchestrator actor, its ledger, and the steps of a trial at the end of a cycle."""
