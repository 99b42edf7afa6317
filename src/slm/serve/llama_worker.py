"""The process that holds llama.cpp, started by `llama_cpp.py`: `python -m slm.serve.llama_worker SETTINGS`.

In: settings as one JSON argument. Out: the server's address on standard output, once; everything that
llama.cpp prints goes to standard error, also what it writes to file descriptor 1. It serves until its
standard input closes, so it ends with its parent, however that ends.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def parameters(settings: dict[str, Any]) -> Any:
    """llama.cpp's parameters for one model, one slot, on loopback only."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = settings["path"]
    if settings["adapter"]:
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(settings["adapter"], 1.0)]
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [settings["api_key"]]
    params.ui = False
    params.offline = True
    params.fit_params = False
    params.n_parallel = 1
    params.n_ctx = settings["context_tokens"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings["threads"]
    params.cache_ram_mib = 0
    params.warmup = False
    params.timeout_read = params.timeout_write = settings["timeout_seconds"]
    if settings["exact"]:
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.n_gpu_layers = 0
        params.check_tensors = True
    if settings["int8_cache"]:
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_Q8_0
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED  # or values stay F16
    return params


def main() -> None:
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    import xllamacpp

    server = xllamacpp.Server(parameters(json.loads(sys.argv[1])))
    answer.write(f"{server.listening_address}\n")
    answer.close()
    sys.stdin.buffer.read()
    os._exit(0)  # without waiting for a generation that nobody reads any more


if __name__ == "__main__":
    main()
