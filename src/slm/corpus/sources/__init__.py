"""Where documents come from, one module a kind.

Each has `read(config, rejects)`, which streams documents, and `signature(config)`, a cheap identity of what
would be read: it goes into the artifact's key, so that changed files make a corpus out of date. A new source
is one module here, one line in `slm.corpus.SOURCES`, one word in `SourceConfig.kind` and `KEYS_OF_KIND`.
"""
