import subprocess
import sys
from pathlib import Path

import pytest

from slm.serve.llama_worker import parameters

SETTINGS = {
    "path": "/x.gguf", "adapter": "", "api_key": "k", "context_tokens": 64, "exact": False, "int8_cache": False,
    "threads": 3, "timeout_seconds": 9,
}  # fmt: skip


@pytest.mark.parametrize("exact", [False, True])
def test_the_server_is_private_and_exact_on_request(exact: bool) -> None:
    import xllamacpp

    params = parameters(SETTINGS | {"exact": exact})
    assert (params.model.path, params.hostnames, params.port, params.api_keys) == ("/x.gguf", ["127.0.0.1"], 0, ["k"])
    assert (params.n_ctx, params.n_parallel, params.cpuparams.n_threads, params.timeout_read) == (64, 1, 3, 9)
    assert params.offline
    assert not params.ui
    full = xllamacpp.ggml_type.GGML_TYPE_F32
    assert (params.cache_type_k == full, params.cache_type_v == full, params.check_tensors) == (exact,) * 3


def test_an_int8_cache_is_llama_cpps_q8_0_with_the_attention_that_it_needs() -> None:
    import xllamacpp

    params = parameters(SETTINGS | {"int8_cache": True})
    assert params.cache_type_k == params.cache_type_v == xllamacpp.ggml_type.GGML_TYPE_Q8_0
    assert params.flash_attn_type == xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED


def test_the_process_ends_with_its_parent(places: dict[str, str]) -> None:
    program = (
        "import os, sys\nfrom pathlib import Path\nfrom slm.serve.llama_cpp import LlamaCpp\n"
        f"opened = LlamaCpp(Path({places['gguf']!r}), threads=1).__enter__()\n"
        "print(opened._process.pid, flush=True)\nos.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    child = Path("/proc") / done.stdout.strip()
    for _ in range(100):
        if not child.exists() or "State:\tZ" in (child / "status").read_text():
            break
        subprocess.run(["sleep", "0.05"], check=True)
    else:
        pytest.fail("the llama.cpp process outlived its parent")
    assert done.returncode == -9
