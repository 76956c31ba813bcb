"""The libraries that Octavo is measured against, called as their users call them.

A new one is a new file here with a ``PEERS`` list of :class:`~octavo.bench.peers.base.Peer`.
"""

from __future__ import annotations

import importlib
import pkgutil

from octavo.bench.peers.base import Peer, Prepared, Unavailable

__all__ = ["Peer", "Prepared", "Unavailable", "all_peers", "chosen"]


def all_peers() -> dict[str, Peer]:
    """Every peer by name, installed or not, in the order of reports."""
    peers: list[Peer] = []
    for module in pkgutil.iter_modules(__path__):
        found = importlib.import_module(f"{__name__}.{module.name}")
        peers += getattr(found, "PEERS", [])
    return {peer.name: peer for peer in sorted(peers, key=lambda peer: (peer.order, peer.name))}


def chosen(names: list[str] | None) -> list[str]:
    """The peers that ``--peers`` asks for, or all of them.

    Args:
        names: values of the option, each one name or several separated by commas; ``none`` is
            nobody.

    Raises:
        ValueError: an unknown name.
    """
    known = list(all_peers())
    if names is None:
        return known
    asked = [part for name in names for part in name.split(",") if part and part != "none"]
    for name in asked:
        if name not in known:
            raise ValueError(f"--peers {name}: no such peer; there are {', '.join(known)}, none")
    return [name for name in known if name in asked]
