import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from hpsearch.model import linear as linear_module
from hpsearch.model.linear import linear


@pytest.fixture(autouse=True, params=[0, 2**62], ids=["onednn", "small"])
def _smallest_for_onednn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways, whatever the size of the example."""
    monkeypatch.setattr(linear_module, "SMALL_PRODUCT", request.param)


def example(*, bias: bool, transposed: bool, every_second: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    torch.manual_seed(0)
    x = torch.randn(3, 14, 20)[:, :: 2 if every_second else 1].detach().requires_grad_()
    weight = (torch.randn(20, 33).t() if transposed else torch.randn(33, 20)).detach().requires_grad_()
    return x, weight, torch.randn(33, requires_grad=True) if bias else None


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("every_second", [False, True])
def test_linear_and_its_gradients_equal_torchs(bias: bool, transposed: bool, every_second: bool) -> None:
    inputs = example(bias=bias, transposed=transposed, every_second=every_second)
    wanted = [tensor for tensor in inputs if tensor is not None]
    found, expected = linear(*inputs), F.linear(*inputs)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    # An expanded gradient, as a sum gives it, and a dense one.
    for grad in (torch.ones(()).expand_as(found), torch.randn_like(found)):
        ours = torch.autograd.grad(found, wanted, grad, retain_graph=True)
        theirs = torch.autograd.grad(expected, wanted, grad, retain_graph=True)
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-5)


def test_linear_counts_its_flops() -> None:
    x, weight, _ = example(bias=False, transposed=False, every_second=False)
    with FlopCounterMode(display=False) as counter:
        out = linear(x, weight)
        assert counter.get_total_flops() == 2 * 3 * 14 * 20 * 33
        out.sum().backward()  # type: ignore[no-untyped-call]
    assert counter.get_total_flops() == 3 * 2 * 3 * 14 * 20 * 33


def test_linear_follows_autocast() -> None:
    x, weight, _ = example(bias=False, transposed=False, every_second=False)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight).dtype == torch.bfloat16
    assert linear(x, weight).dtype == torch.float32
