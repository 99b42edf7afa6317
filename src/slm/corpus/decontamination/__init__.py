"""Decontamination: documents that hold items of the evaluations are left out and reported."""
