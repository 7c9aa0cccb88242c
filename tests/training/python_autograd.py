"""Backward passes over PyTorch's graph of nodes, in Python: for tensors on devices that PyTorch's own engine cannot reach.

The engine asks CUDA for its streams, so that it ends with an error for fake tensors on "cuda" where there is no GPU. The
nodes themselves need none.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge, saved_tensors_hooks

Node = Any


class _Saved:
    """Holds a tensor that a node saved; emptied once the node has run, as the engine does."""

    __slots__ = ("tensor",)

    def __init__(self, tensor: Tensor) -> None:
        self.tensor: Tensor | None = tensor


class _Engine:
    """Runs nodes from the outputs to the leaves, the latest first."""

    def __init__(self) -> None:
        self.unpacked: list[_Saved] = []

    def unpack(self, saved: _Saved) -> Tensor:
        """Give a saved tensor to the node that runs."""
        if saved.tensor is None:
            raise RuntimeError("Trying to backward through the graph a second time")
        self.unpacked.append(saved)
        return saved.tensor

    def run(
        self, outputs: Sequence[Tensor | GradientEdge], grads: Sequence[Tensor | None], keep_graph: bool,
        create_graph: bool, inputs: Sequence[Tensor | GradientEdge], allow_unreachable: bool = False,
        accumulate_grad: bool = False,
    ) -> tuple[Tensor | None, ...]:  # fmt: skip
        """As ``torch.autograd.graph._engine_run_backward``."""
        roots = [_edge(output) for output in outputs]
        wanted = [_edge(tensor) for tensor in inputs]
        waiting = _dependencies([node for node, _ in roots])
        buffers: dict[Node, dict[int, Tensor]] = {}
        found: dict[tuple[Node, int], Tensor] = {}
        with torch.set_grad_enabled(create_graph):
            for (node, number), output, grad in zip(roots, outputs, grads, strict=True):
                one = torch.ones_like(output) if grad is None else grad  # type: ignore[arg-type]
                _add(buffers.setdefault(node, {}), number, one)
            count = itertools.count()
            ready = [
                (-node._sequence_nr(), next(count), node)
                for node in dict.fromkeys(n for n, _ in roots)
                if not waiting[node]
            ]
            heapq.heapify(ready)
            while ready:
                node = heapq.heappop(ready)[2]
                given = buffers.pop(node, {})
                found |= {edge: given[edge[1]] for edge in wanted if edge[0] is node and edge[1] in given}
                edges = node.next_functions
                if given:
                    results = self._apply(node, given, keep_graph, accumulate=not wanted)
                else:
                    results = (None,) * len(edges)
                for (following, number), grad in zip(edges, results, strict=True):
                    if following is None:
                        continue
                    if grad is not None:
                        _add(buffers.setdefault(following, {}), number, _fitted(grad, following, number))
                    waiting[following] -= 1
                    if not waiting[following]:
                        heapq.heappush(ready, (-following._sequence_nr(), next(count), following))
                del given, results
        if accumulate_grad:
            for tensor, edge in zip(inputs, wanted, strict=True):
                if edge in found:
                    _accumulate(tensor, found[edge])
        return tuple(found.get(edge) for edge in wanted)

    def _apply(
        self, node: Node, given: dict[int, Tensor], keep_graph: bool, accumulate: bool
    ) -> tuple[Tensor | None, ...]:
        if node.name() == "torch::autograd::AccumulateGrad":
            if accumulate:
                _accumulate(node.variable, given[0])
            return ()
        filled = [given.get(k) for k in range(len(node._input_metadata))]
        earlier, self.unpacked = self.unpacked, []
        custom = hasattr(node, "_forward_cls")
        results = node.apply(*filled) if custom else node(*filled)
        if not keep_graph:
            for saved in self.unpacked:
                saved.tensor = None
        self.unpacked = earlier
        results = results if isinstance(results, tuple) else (results,)
        return _of_edges(results, node) if custom else results


def _edge(tensor: Tensor | GradientEdge) -> tuple[Node, int]:
    edge = tensor if isinstance(tensor, GradientEdge) else get_gradient_edge(tensor)
    return edge.node, edge.output_nr


def _dependencies(roots: Sequence[Node]) -> dict[Node, int]:
    """Number of edges from nodes that are reached to each node."""
    counts = dict.fromkeys(roots, 0)
    stack = list(counts)
    while stack:
        for following, _ in stack.pop().next_functions:
            if following is None:
                continue
            if following not in counts:
                counts[following] = 0
                stack.append(following)
            counts[following] += 1
    return counts


def _of_edges(results: tuple[Tensor | None, ...], node: Node) -> tuple[Tensor | None, ...]:
    """Results of a custom function's backward pass, one per argument, at the node's edges.

    Arguments that are no tensors have no edge; a tensor that needs no gradient has an empty one.
    """
    grads = iter([grad for grad, needed in zip(results, node.needs_input_grad, strict=True) if needed])
    return tuple(None if following is None else next(grads) for following, _ in node.next_functions)


def _add(buffer: dict[int, Tensor], number: int, grad: Tensor) -> None:
    buffer[number] = buffer[number] + grad if number in buffer else grad


def _fitted(grad: Tensor, node: Node, number: int) -> Tensor:
    """The gradient in shape and dtype of what it is the gradient of."""
    if hasattr(node, "variable"):
        shape, dtype = node.variable.shape, node.variable.dtype
    else:
        metadata = node._input_metadata[number]
        shape, dtype = metadata.shape, metadata.dtype
    if grad.shape != torch.Size(shape):
        grad = grad.sum_to_size(shape)
    return grad if grad.dtype == dtype else grad.to(dtype)


def _accumulate(variable: Any, grad: Tensor) -> None:
    variable.grad = grad if variable.grad is None else variable.grad + grad


@contextmanager
def python_autograd() -> Iterator[None]:
    """Run all backward passes of the body in Python; tensors are released as PyTorch's engine releases them."""
    engine = _Engine()
    with (
        mock.patch("torch.autograd._engine_run_backward", engine.run),
        mock.patch("torch.autograd.graph._engine_run_backward", engine.run),
        saved_tensors_hooks(_Saved, engine.unpack),
    ):
        yield
