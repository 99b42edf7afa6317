"""What torch computes while a block runs: every operation, and the largest tensor that any of them makes."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Operations(TorchDispatchMode):
    """`with Operations() as seen:` records below autograd, so also what backward and custom functions compute."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.largest = 0
        """Elements of the largest tensor made, or of the memory that it is a view of."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        made = function(*args, **(kwargs or {}))
        self.names.append(str(function.overloadpacket))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                elements = tensor.untyped_storage().nbytes() // tensor.element_size()
                self.largest = max(self.largest, tensor.numel(), elements)
        return made
