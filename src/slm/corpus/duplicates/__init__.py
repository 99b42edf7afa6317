"""Duplicates and near duplicates: found exactly as they would be by hand, at any size on one machine.

`sketch` takes of each document a digest and the keys of its MinHash signature, where the document is read. `find`
brings together, over all documents, those with one digest, then those that share a key (`ranges`), compares these
exactly (`verify`), and says which to leave out.

The rule: documents stand in an order that is their source's place in the recipe, then a hash of id and text. Going
through them in this order, a document is left out if one that stays has its digest, or shares at least `threshold`
of their united runs of words (Jaccard). So every document that is left out has one that stays and stands for it,
chains of likeness drop nothing by hearsay, and order of reading, files, parts and processes change nothing.
"""

from __future__ import annotations
