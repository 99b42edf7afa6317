"""Documents to clean documents: the list of steps in a recipe, run over each.

`cleaner.Cleaner(config)(document)` is the cleaned document or `Dropped`. Every document that goes has a counted
reason, `step/rule`, and of each reason a sample is kept for `slm corpus audit`.
"""
