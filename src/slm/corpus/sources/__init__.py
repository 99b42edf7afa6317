"""Where documents come from, one module a kind.

Each has three functions: `pieces(config, unit_bytes)`, the source in parts that can be read on their own, none much
larger than `unit_bytes` where its format allows; `read(config, unit, rejects)`, which streams the documents of a
unit, that is of some consecutive pieces; and `signature(config)`, a cheap identity of what would be read, which goes
into the artifact's key, so that changed files make a corpus out of date. A new source is one module here, one line
in `slm.corpus.SOURCES`, one word in `SourceConfig.kind` and `KEYS_OF_KIND`.
"""
