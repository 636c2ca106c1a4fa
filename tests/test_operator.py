"""What declarations call: inputs that a peer wants as one tensor are seen as one, and never copied."""

from __future__ import annotations

import pytest
import torch

from bench.core.operator import Unsupported, joined


def test_halves_of_one_tensor_are_seen_as_it() -> None:
    whole = torch.randn(3, 8)
    gate, up = whole.chunk(2, dim=1)
    seen = joined(gate, up)
    assert torch.equal(seen, whole)
    whole.zero_()
    assert not seen.any(), "expected a view, which has the values that the inputs take later"


def test_what_is_no_such_half_is_refused() -> None:
    gate, up = torch.randn(3, 8).chunk(2, dim=1)
    for pair in ((torch.randn(3, 4), torch.randn(3, 4)), (up, gate), (gate, up.clone())):
        with pytest.raises(Unsupported, match="takes gate and up as halves of one tensor"):
            joined(*pair)
    with pytest.raises(Unsupported, match="has no gradients of gate and up apart"):
        joined(gate.requires_grad_(), up)
