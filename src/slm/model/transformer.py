"""The decoder: token ids in, logits out.

A Llama-family model: embedding, blocks, norm, head. The residual stream keeps the type of the weights
(float32 in training, also under autocast); matrix products and attention compute in autocast's type.
Logits are float32.

Initialisation (`build`): matrices normal with standard deviation fan_in^-0.5, embeddings width^-0.5
(SmolLM2's choice). The two matrices that write into the residual stream, attention.o and ffn.down, are by
default divided by sqrt(2 * layers) as in GPT-2, so that the stream's variance does not grow with depth;
they are not zero, so that a check of attention, cache or export on a fresh model checks something. With
`residual_init: zero` blocks start as the identity and training starts faster: mean loss at the end of
short byte-level runs (1.6M parameters, 0.3M to 0.5M tokens, one or two seeds) was 1.591 against 1.633
with Muon and 1.634 against 1.685 with AdamW. Longer runs were not compared.

Shapes: B rows, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from slm.core.batch import Dropout
from slm.core.seeds import derive
from slm.model.attention import plan, plans
from slm.model.block import Block
from slm.model.cache import KVCache
from slm.model.config import ModelConfig
from slm.model.dropout import thinned_embedding
from slm.model.norm import RMSNorm, compute_dtype
from slm.model.packing import Packing
from slm.model.rope import RotaryTables, Rotation


class Transformer(nn.Module):
    """A decoder-only language model. `build` makes one with fresh weights, `slm.model.load` reads one."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.norm = RMSNorm(config.width, config.norm_eps)
        self.head = None if config.tie_embeddings else nn.Linear(config.width, config.vocab_size, bias=False)
        self._tables = RotaryTables(config)

    @property
    def head_weight(self) -> Tensor:
        """The output matrix [V, D]: the embedding where tied."""
        return self.embedding.weight if self.head is None else self.head.weight

    def forward(
        self,
        tokens_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Logits [B, T, V], float32; see `hidden` for the arguments."""
        return self.project(self.hidden(tokens_BT, positions_BT=positions_BT, documents_BT=documents_BT, cache=cache))

    def hidden(
        self,
        tokens_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
        sees_BTK: Tensor | None = None,
        packing: Packing | None = None,
        cache: KVCache | None = None,
        dropout: Dropout | None = None,
    ) -> Tensor:
        """The last block's output after the final norm, [B, T, D].

        Without `documents_BT` each row is one document; with it, tokens see only their own document, and
        -1 marks padding, whose output means nothing. Without `positions_BT` positions run through the
        row, after those in `cache`. Tokens are added to `cache`, if any. With `dropout` parts are left out.
        `sees_BTK` says instead which of the K tokens in the cache and the row each of the T sees, itself among them;
        positions and the window are then the caller's affair. So they are with `packing`, for one row of many
        sequences; the output is then that of the wanted places alone, [1, M, D].
        """
        batch, num_tokens = tokens_BT.shape
        x_BTD = thinned_embedding(self.embedding(tokens_BT), dropout, documents_BT)
        dtype = compute_dtype(x_BTD)
        if cache is not None:
            cache.reserve(documents_BT, batch, num_tokens)
        if packing is not None:
            how, last = plans(packing, dtype)
        else:
            how = last = plan(self.config, tokens_BT.shape, dtype, x_BTD.device, documents_BT, cache, sees_BTK)
        rotation = self._rotation(positions_BT, num_tokens, cache, dtype, x_BTD.device)
        for number, block in enumerate(self.blocks, 1):
            x_BTD = block(x_BTD, rotation, last if number == len(self.blocks) else how, cache, dropout)
        if cache is not None:
            cache.length += num_tokens
        out: Tensor = self.norm(x_BTD)
        return out

    def project(self, x_BTD: Tensor) -> Tensor:
        """Logits of hidden states, float32."""
        return functional.linear(x_BTD, self.head_weight).float()

    def _rotation(
        self,
        positions_BT: Tensor | None,
        num_tokens: int,
        cache: KVCache | None,
        dtype: torch.dtype,
        device: torch.device,
    ) -> Rotation:
        start = cache.length if cache is not None else 0
        if positions_BT is None:
            return self._tables.span(start, start + num_tokens, device, dtype)
        longest = max(start + num_tokens, self.config.max_seq_len)  # a bound that does not ask the device
        return self._tables.at(positions_BT, longest, dtype)


def build(config: ModelConfig, seed: int) -> Transformer:
    """A model with fresh weights on the CPU, float32; equal arguments give equal weights."""
    with torch.device("meta"):
        model = Transformer(config)
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(derive(seed, "model"))
    residual_scale = 1 / math.sqrt(2 * config.layers)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.fill_(1.0)
                continue
            std = parameter.shape[1] ** -0.5
            if name.endswith(("attention.o.weight", "ffn.down.weight")):
                std *= 0.0 if config.residual_init == "zero" else residual_scale
            parameter.normal_(0.0, std, generator=generator)
    return model
