"""Cyclical self-regulation: the orchestrator actor, its ledger, and what trials do at the end of a cycle."""
