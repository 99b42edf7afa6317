"""Deduplication: signatures are taken unit by unit, and compared once all units are there."""
