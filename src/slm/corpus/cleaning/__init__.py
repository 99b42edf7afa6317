"""Cleaning: a list of named steps, each of which changes a document or drops it with a reason."""
