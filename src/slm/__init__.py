"""slm: from raw text to a small language model that answers, with every step checked."""

import os

__version__ = "0.1.0"

# torch's CPU allocator asks for huge pages only if this is set before torch is imported, so that what it takes comes in
# fewer page faults. Training takes nothing new after its first steps (slm.core.allocator); the other stages do.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
