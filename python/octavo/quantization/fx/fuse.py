"""Fusing modules and functions that follow each other in a graph."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable, MutableMapping
from typing import Any

from torch import fx, nn
from torch.nn import functional as F

from octavo.quantization.backend_config import BackendConfig
from octavo.quantization.fold import fold_weights
from octavo.quantization.fuse_modules import place_hooks, take_hooks
from octavo.quantization.fx.dtypes import quant_type
from octavo.quantization.fx.kinds import RELU, module_of
from octavo.quantization.fx.origins import origin_of, qconfig_of, set_origin
from octavo.quantization.fx.values import Value
from octavo.quantization.qconfig_mapping import QConfigMapping
from octavo.quantization.quant_type import QuantType
from octavo.quantization.units import find_entry, has_float16_weights

__all__ = ["free_name", "fuse_graph", "own_module", "set_module"]

_FLAGS = (nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.LeakyReLU, nn.Tanh)  # without parameters


def _sequences(backend: BackendConfig) -> dict[tuple[Any, ...], Any]:
    """What the backend fuses: types in order, and the function that does it."""
    return {
        config.pattern: config.fuser_method
        for config in backend.configs
        if isinstance(config.pattern, tuple) and config.fuser_method is not None
    }


class _Chains:
    """The calls that follow each call of a module, as far as some fusion goes."""

    def __init__(
        self,
        model: fx.GraphModule,
        backend: BackendConfig,
        mapping: QConfigMapping | None,
        values: MutableMapping[fx.Node, Value],
    ) -> None:
        self.model = model
        self.mapping = mapping
        self.values = values
        self.fusers = _sequences(backend)
        self.types = {kind for sequence in self.fusers for kind in sequence}
        self.prefixes = {
            sequence[:length] for sequence in self.fusers for length in range(1, len(sequence) + 1)
        }

    def type_of(self, node: fx.Node) -> Any:
        """The type that the backend's sequences know a node by, or None."""
        if node.op == "call_module":
            module = self.model.get_submodule(str(node.target))
            return find_entry(module, {kind for kind in self.types if isinstance(kind, type)})[0]
        if node.op not in ("call_function", "call_method"):
            return None
        if node.target in RELU:
            return F.relu
        if node.kwargs or len(node.args) != 1:
            return None  # other bounds or slopes than the defaults
        return node.target if node.target in self.types else None

    def longest(self, root: fx.Node) -> list[tuple[fx.Node, Any]]:
        """Nodes from ``root`` on, each the only user of the one before, and their types, while they
        may be the beginning of a sequence.
        """
        chain = [(root, self.type_of(root))]
        while True:
            last = chain[-1][0]
            following = list(last.users)
            if len(following) != 1 or following[0].args[:1] != (last,):
                return chain
            node = following[0]
            kind = self.type_of(node)
            kinds = tuple(kind for _, kind in chain)
            if (*kinds, kind) not in self.prefixes or len(node.all_input_nodes) != 1:
                return chain
            if kind is nn.BatchNorm1d and not self._normalizes_channels(last):
                return chain
            chain.append((node, kind))

    def _normalizes_channels(self, layer: fx.Node) -> bool:
        """Whether a BatchNorm1d after a layer has the layer's output channels as its own. It does
        not where there is a sequence of features, or a single unbatched signal: it normalizes along
        the second dimension of whatever it gets. Unknown shapes count as those of a batch.
        """
        shape = self.values[layer].shape if layer in self.values else None
        rank = 2 if isinstance(module_of(layer, self.model), nn.Linear) else 3
        return shape is None or len(shape) == rank

    def alone(self, call: fx.Node) -> list[fx.Node]:
        """The nodes to fuse with one call of a module, itself first; only itself where there are
        none.
        """
        chain = self.longest(call)
        for length in range(len(chain), 1, -1):
            kinds = tuple(kind for _, kind in chain[:length])
            if kinds in self.fusers and self._suits(call, kinds):
                return [node for node, _ in chain[:length]]
        return [call]

    def by_sequence(self, calls: list[fx.Node]) -> list[list[list[fx.Node]]]:
        """The nodes to fuse with each call of a module, with those together that are alike."""
        result: dict[Any, list[list[fx.Node]]] = defaultdict(list)
        for call in calls:
            nodes = self.alone(call)
            key = tuple(self._identity(node, self.type_of(node)) for node in nodes)
            result[key].append(nodes)
        return list(result.values())

    def common(self, calls: list[fx.Node], counts: dict[Any, int]) -> list[list[fx.Node]]:
        """For each call of one module the nodes to fuse: the longest sequence that all calls have,
        of modules that are not called elsewhere.
        """
        chains = [self.longest(call) for call in calls]
        for length in range(min(map(len, chains)), 1, -1):
            heads = [chain[:length] for chain in chains]
            kinds = tuple(kind for _, kind in heads[0])
            keys = {tuple(self._identity(node, kind) for node, kind in head) for head in heads}
            if kinds not in self.fusers or len(keys) != 1 or not self._suits(calls[0], kinds):
                continue
            parts = [node for node, _ in heads[0] if node.op == "call_module"]
            stateful = [node for node in parts if not self._is_flag(node)]
            if all(counts[node.target] == len(calls) for node in stateful):
                return [[node for node, _ in head] for head in heads]
        return []

    def _suits(self, root: fx.Node, kinds: tuple[Any, ...]) -> bool:
        """Whether the fused module has a form for the root's QConfig: those for dynamic
        quantization have ReLU and nothing else, and none for weights in float16.
        """
        qconfig = None if self.mapping is None else qconfig_of(origin_of(root), self.mapping)
        if qconfig is None or quant_type(qconfig) is not QuantType.DYNAMIC:
            return True
        relus = () if has_float16_weights(qconfig) else (nn.ReLU, F.relu)
        norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
        return all(kind in relus or kind in norms for kind in kinds[1:])

    def _is_flag(self, node: fx.Node) -> bool:
        return isinstance(self.model.get_submodule(str(node.target)), _FLAGS)

    def _identity(self, node: fx.Node, kind: Any) -> Any:
        """What has to be equal in all calls of a shared module: the same modules, or functions that
        do the same.
        """
        if node.op == "call_module" and not self._is_flag(node):
            return node.target
        module = self.model.get_submodule(str(node.target)) if node.op == "call_module" else None
        return F.relu if isinstance(module, nn.ReLU) or kind is F.relu else repr(module or kind)


def fuse_graph(
    model: fx.GraphModule,
    backend: BackendConfig,
    is_qat: bool,
    mapping: QConfigMapping | None = None,
    values: MutableMapping[fx.Node, Value] | None = None,
) -> None:
    """Fuses what the backend's patterns with a fuser method name, in place, where the result can be
    quantized as ``mapping`` says.

    The fused module is where the first one was, and comes from where that came from. A module that
    is called several times is fused with what follows each of its calls; where that is not the same
    everywhere, there is a module for each sequence, with the same parameters. One that is trained
    is fused with what follows all of its calls, or not at all.

    Args:
        values: of the nodes, if known; kept up to date.

    Raises:
        ValueError: a batch norm that cannot be folded, with the path.
    """
    values = {} if values is None else values
    chains = _Chains(model, backend, mapping, values)
    calls: dict[str, list[fx.Node]] = defaultdict(list)
    for node in model.graph.nodes:
        if node.op == "call_module":
            calls[str(node.target)].append(node)
    counts: dict[Any, int] = {target: len(nodes) for target, nodes in calls.items()}
    gone: set[fx.Node] = set()
    for nodes in calls.values():
        if any(node in gone for node in nodes) or chains.type_of(nodes[0]) is None:
            continue
        found = [chains.common(nodes, counts)] if is_qat else chains.by_sequence(nodes)
        for groups in found[1:]:
            own_module(model, [group[0] for group in groups])
        for groups in found:
            if groups and len(groups[0]) > 1:
                _fuse(model, str(groups[0][0].target), groups, chains, is_qat)
                gone.update(node for group in groups for node in group)
    model.graph.lint()


def own_module(model: fx.GraphModule, calls: list[fx.Node]) -> str:
    """Gives some of the calls of a module a copy of it with the same parameters; returns its
    name.
    """
    path = str(calls[0].target)
    module = model.get_submodule(path)
    tensors = (*module.parameters(), *module.buffers())
    name = free_name(model, f"{path.replace('.', '_')}_call")
    model.add_module(name, copy.deepcopy(module, {id(tensor): tensor for tensor in tensors}))
    for call in calls:
        call.target = name
    return name


def _fuse(
    model: fx.GraphModule,
    target: str,
    groups: list[list[fx.Node]],
    chains: _Chains,
    is_qat: bool,
) -> None:
    kinds = tuple(chains.type_of(node) for node in groups[0])
    parts: list[Any] = [
        model.get_submodule(str(node.target)) if node.op == "call_module" else kind
        for node, kind in zip(groups[0], kinds, strict=True)
    ]
    # Copies of what has no parameters: it may be called elsewhere too, and a pickled graph knows a
    # module by one path.
    parts = [copy.deepcopy(part) if isinstance(part, _FLAGS) else part for part in parts]
    for part in parts:
        if isinstance(part, nn.Module):
            fold_weights(part)
    modules = [part if isinstance(part, nn.Module) else nn.Identity() for part in parts]
    hooks = [take_hooks(module) for module in modules]
    try:
        fused = chains.fusers[kinds](is_qat, *parts)
    except NotImplementedError:  # no such form for training
        for module, taken in zip(modules, hooks, strict=True):
            vars(module).update(taken)
        return
    except (TypeError, ValueError) as error:
        names = [str(node.target) for node in groups[0]]
        raise type(error)(f"{error} (in {names})") from error
    place_hooks(fused, modules, hooks, f"'{target}'")
    fused.training = parts[0].training
    set_module(model, target, fused)
    for group in groups:
        if group[-1] in chains.values:
            chains.values[group[0]] = chains.values[group[-1]]
        _shorten(model.graph, group, type(fused))


def _shorten(graph: fx.Graph, group: Iterable[fx.Node], kind: type) -> None:
    """Leaves the first call of a group in the graph, for all of them."""
    first, *rest = group
    set_origin(first, origin_of(first), kind)
    rest[-1].replace_all_uses_with(first)
    for node in reversed(rest):
        graph.erase_node(node)


def free_name(model: nn.Module, name: str) -> str:
    """``name``, or with a number where the model has such an attribute."""
    candidate, number = name, 0
    while hasattr(model, candidate):
        candidate, number = f"{name}_{number}", number + 1
    return candidate


def set_module(model: nn.Module, path: str, module: nn.Module) -> None:
    """Puts a module at a path, whose parents exist."""
    parent, _, name = path.rpartition(".")
    model.get_submodule(parent)._modules[name] = module
