"""The update rules, by torch's own classes wherever it has one, and which parameters decay.

Weight decay touches matrices only (two dimensions or more: projections, and embedding tables too), never biases or
normalisation scales. It is decoupled (arXiv:1711.05101) in adamw, muon, adafactor and lion, and an L2 term of the gradient in
adam and sgd.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hpsearch.config import TrialConfig
from hpsearch.model.counting import by_muon, muon_rows

RULES = {
    "adamw": "AdamW",
    "adam": "Adam with L2",
    "sgd": "SGD with momentum and L2",
    "adafactor": "Adafactor",
    "lion": "Lion",
    "muon": "Muon",
}


@dataclass(frozen=True)
class Group:
    """Parameters that share an update rule and a weight decay."""

    name: str
    rule: str
    weight_decay: float
    parameters: tuple[nn.Parameter, ...]


def parameter_groups(model: nn.Module, config: TrialConfig) -> list[Group]:
    """The parameters of `model`, each in one group; empty groups are left out.

    muon updates the matrices of the blocks, queries, keys and values each by themselves; embedding tables, heads, the output
    projection and vectors go to AdamW, as its author advises.
    """
    parameters = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    matrices = [(name, parameter) for name, parameter in parameters if parameter.ndim >= 2]
    vectors = tuple(parameter for _, parameter in parameters if parameter.ndim < 2)
    rule, decay = RULES[config.optimizer], config.weight_decay
    if config.optimizer == "muon":
        hidden = tuple(parameter for name, parameter in matrices if by_muon(name, tuple(parameter.shape)))
        rest = tuple(parameter for name, parameter in matrices if not by_muon(name, tuple(parameter.shape)))
        groups = [
            Group("matrices of the blocks", rule, decay, hidden),
            Group("embeddings and heads", RULES["adamw"], decay, rest),
            Group("biases and norms", RULES["adamw"], 0.0, vectors),
        ]
    else:
        groups = [
            Group("matrices", rule, decay, tuple(parameter for _, parameter in matrices)),
            Group("biases and norms", rule, 0.0, vectors),
        ]
    return [group for group in groups if group.parameters]


def describe_groups(model: nn.Module, config: TrialConfig) -> list[dict[str, Any]]:
    """What `hpsearch show` prints of the parameter groups. A model on the meta device is enough."""
    return [
        {
            "name": group.name,
            "tensors": len(group.parameters),
            "parameters": sum(parameter.numel() for parameter in group.parameters),
            "weight_decay": group.weight_decay,
            "rule": group.rule,
        }
        for group in parameter_groups(model, config)
    ]


def build_optimizers(model: nn.Module, config: TrialConfig) -> list[Optimizer]:
    """The optimizers of `config.optimizer` over `model`: one, or for muon two. Step all of them.

    Fused kernels throughout, on CUDA and on the CPU: on one core they need a quarter of the time of `foreach` at
    (4 layers, d_model 128) and a third at (6, 384).
    """
    groups = parameter_groups(model, config)
    if _on_cpu(groups):
        _without_compiler()
    rates: dict[str, Any] = {"lr": config.learning_rate}
    adam: dict[str, Any] = rates | {"betas": (config.beta1, config.beta2), "eps": config.adam_epsilon}
    match config.optimizer:
        case "adamw":
            return [_adamw(groups, adam)]
        case "adam":
            return [torch.optim.Adam(_torch_groups(groups), fused=True, **adam)]
        case "sgd":
            return [torch.optim.SGD(_torch_groups(groups), fused=True, momentum=config.momentum, **rates)]
        case "adafactor":
            return [torch.optim.Adafactor(_torch_groups(groups), **rates)]
        case "lion":
            return [Lion(_torch_groups(groups), betas=(config.beta1, config.beta2), **rates)]
        case "muon":
            hidden = [group for group in groups if group.rule == RULES["muon"]]
            rest = [group for group in groups if group.rule != RULES["muon"]]
            optimizers: list[Optimizer] = []
            if hidden:
                # match_rms_adamw (arXiv:2502.16982): the update has the size of AdamW's, so one learning rate fits both.
                rows = {
                    parameter: muon_rows(config, name, tuple(parameter.shape)) for name, parameter in model.named_parameters()
                }
                optimizers.append(
                    Muon(_torch_groups(hidden), rows, momentum=config.momentum, adjust_lr_fn="match_rms_adamw", **rates)
                )
            if rest:
                optimizers.append(_adamw(rest, adam))
            return optimizers


def set_learning_rate(optimizers: Iterable[Optimizer], rate: float) -> None:
    """Set the learning rate of every group. A plain number: a kernel argument, so nothing waits for the device."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate


class Muon(torch.optim.Muon):
    """`torch.optim.Muon`, for parameters that hold several matrices one below another: each is made orthogonal by itself.

    Queries, keys and values are so held. With equal FLOPs, apart was lower than together at each of four learning rates from
    1e-3 to 3e-2 on each of three seeds, by 0.002 to 0.068 bits per byte (benchmarks/muon_qkv.py). rows: those of each
    parameter's matrices.
    """

    def __init__(self, params: Iterable[Any], rows: Mapping[nn.Parameter, Sequence[int]], **settings: Any) -> None:
        super().__init__(params, **settings)
        self._rows: dict[Tensor, Sequence[int]] = dict(rows.items())

    def _init_group(
        self,
        group: MutableMapping[str, Any],
        params_with_grad: list[Tensor],
        grads: list[Tensor],
        muon_momentum_bufs: list[Tensor],
    ) -> bool:
        whole: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
        has_complex = super()._init_group(group, *whole)
        for tensors, parts in zip(whole, (params_with_grad, grads, muon_momentum_bufs), strict=True):
            for weight, tensor in zip(whole[0], tensors, strict=True):
                # Views: what the update writes is in the parameter, and its state stays one tensor.
                parts += torch.split(tensor, list(self._rows[weight]))
        return has_complex


class Lion(Optimizer):
    """Lion (arXiv:2302.06675, algorithm 2), which torch does not have: the sign of an interpolated momentum.

    update = sign(beta1 * m + (1 - beta1) * g);  w = w - lr * (update + weight_decay * w);  m = beta2 * m + (1 - beta2) * g
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights: list[Tensor] = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            grads: list[Tensor] = [weight.grad for weight in weights]  # type: ignore[misc]
            for weight in weights:
                if not self.state[weight]:
                    self.state[weight]["momentum"] = torch.zeros_like(weight)
            momenta: list[Tensor] = [self.state[weight]["momentum"] for weight in weights]
            beta1, beta2 = group["betas"]
            updates = torch._foreach_lerp(momenta, grads, 1 - beta1)
            torch._foreach_sign_(updates)
            if group["weight_decay"]:
                torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(weights, updates, alpha=-group["lr"])
            torch._foreach_lerp_(momenta, grads, 1 - beta2)
        return loss


class CpuAdamW(torch.optim.AdamW):
    """`torch.optim.AdamW(fused=True)` on a CPU: the same kernel and state, without half a millisecond around it in each step.

    The parameters of a group share one count of steps, so each must have a gradient at every step or at none.
    """

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            states = [self.state[weight] for weight in weights]
            count = states[0].get("step", torch.zeros(()))
            count += 1
            for state, weight in zip(states, weights, strict=True):
                state["step"] = count
                if len(state) == 1:
                    state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weight), torch.zeros_like(weight)
            torch._fused_adamw_(
                weights,
                [weight.grad for weight in weights],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                [count] * len(weights),
                lr=group["lr"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
            )
        return loss


def _adamw(groups: list[Group], settings: dict[str, Any]) -> Optimizer:
    return (CpuAdamW if _on_cpu(groups) else torch.optim.AdamW)(_torch_groups(groups), fused=True, **settings)


def _on_cpu(groups: list[Group]) -> bool:
    return all(weight.device.type == "cpu" for group in groups for weight in group.parameters)


def _without_compiler() -> None:
    """Nothing is compiled on a CPU: spare a new process the second in which an optimizer imports `torch._dynamo`.

    torch does that import to mark these methods as not to be compiled, and remembers the marked one in this attribute. Where
    torch has no such attribute, setting it has no effect.
    """
    for name in ("add_param_group", "state_dict", "load_state_dict", "zero_grad"):
        method = getattr(getattr(Optimizer, name), "__wrapped__", None)
        if method is not None and not hasattr(method, "__dynamo_disable"):
            setattr(method, "__dynamo_disable", method)


def _torch_groups(groups: list[Group]) -> list[dict[str, Any]]:
    return [{"params": list(group.parameters), "weight_decay": group.weight_decay} for group in groups]
