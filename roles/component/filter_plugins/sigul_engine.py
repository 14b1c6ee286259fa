"""Ansible filters: what an engine has of a site, whose it is, and what of the engine does not do.

They read what `docker_host_info` tells. What the roles make has two labels: the site's name, and
the directory that its files are in (`component_owner`, which is `sigul_root`). What was made before
there was the second label is told by where its mounts are.
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

SITE: Final = "org.sigul-stack.site"
ROOT: Final = "org.sigul-stack.root"
_COMPONENTS: Final = r"(bridge|server|client|monitoring)(-[a-z]+)?"
_NETWORKS: Final = r"(inside|outside|server|monitoring|watch)"

Engine = Mapping[str, Any]


def engine_faults(engine: Engine, site: str, owner: str) -> list[str]:
    """What keeps the site whose files are below `owner` from this engine, with cures."""
    owner = os.path.normpath(owner)
    containers = list(_foreign_containers(engine, site, owner))
    # Where its containers are another's, so are its networks.
    networks = [] if containers else _foreign_networks(engine, site, owner)
    return [*_kind_faults(engine), *containers, *networks]


def _kind_faults(engine: Engine) -> Iterator[str]:
    if "name=rootless" in security_options(engine):
        yield (
            "the container engine is rootless: its containers have other user IDs than the files"
            " that the roles make, and its networks are out of the packet filter's reach; use the"
            " machine's own engine (unset DOCKER_HOST, run as root or in the group docker), or"
            " `make demo`, which needs none"
        )


def _foreign_containers(engine: Engine, site: str, owner: str) -> Iterator[str]:
    ours = re.compile(rf"sigul-{re.escape(site)}-{_COMPONENTS}")
    for container in engine.get("containers") or []:
        name = next(iter(container.get("Names") or [""])).lstrip("/")
        labels = container.get("Labels") or {}
        root = os.path.normpath(labels[ROOT]) if labels.get(ROOT) else _root(container, owner)
        if ours.fullmatch(name) and root != owner:
            where = f"has its files in {root}" if root else "uses no files of a site"
            yield (
                f"the container {name} {where}, and this site's are in {owner}: it is not this"
                " site's and is left alone; give this site another name (sigul_site), or have the"
                " other one taken down where it belongs (make down, playbooks/down.yml)"
            )
        elif labels.get(SITE, site) != site and root == owner:
            yield (
                f"the container {name}, of the site {labels[SITE]}, has its files in {owner}, where"
                f" this site, {site}, is to have its own; give this one another directory"
                " (sigul_root), or take the other down first, as it is called there"
            )


def _foreign_networks(engine: Engine, site: str, owner: str) -> Iterator[str]:
    networks = re.compile(rf"sigul-{re.escape(site)}-{_NETWORKS}")
    for network in engine.get("networks") or []:
        root = (network.get("Labels") or {}).get(ROOT)
        if networks.fullmatch(network["Name"]) and root and os.path.normpath(root) != owner:
            yield (
                f"the network {network['Name']} is that of a site with its files in {root}, and"
                f" this site's are in {owner}; give this site another name (sigul_site), or have"
                " the other one taken down where it belongs (make down, playbooks/down.yml)"
            )


def _root(container: Mapping[str, Any], owner: str) -> str:
    """Where a container without the label has its files: `owner`, or the first of its mounts."""
    sources = [mount.get("Source") or "" for mount in container.get("Mounts") or []]
    if any(source.startswith(f"{owner}/") for source in sources):
        return owner
    return next((source for source in sources if source), "")


def security_options(engine: Engine) -> list[str]:
    """How the engine confines containers: `name=selinux`, `name=userns` and so on."""
    found = (engine.get("host_info") or {}).get("SecurityOptions") or []
    return [option.split(",")[0] for option in found]


def unowned_network(engine: Engine, name: str) -> bool:
    """Whether there is such a network, and it does not say where its site's files are."""
    return any(
        network["Name"] == name and not (network.get("Labels") or {}).get(ROOT)
        for network in engine.get("networks") or []
    )


def shared_volumes(mounts: list[Mapping[str, Any]]) -> list[str]:
    """Mounts as volumes whose files SELinux lets all containers of the engine use (`:z`).

    Not `:Z`, by which they were one container's alone: beside a daemon's container there are those
    that check its configuration and make backups. Owner and mode of the files are what they were.
    """
    return [
        f"{mount['source']}:{mount['target']}:{'ro' if mount.get('read_only') else 'rw'},z"
        for mount in mounts
    ]


class FilterModule:
    """The filters by their names."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """What Ansible asks for."""
        return {
            "sigul_engine_faults": engine_faults,
            "sigul_security_options": security_options,
            "sigul_unowned_network": unowned_network,
            "sigul_volumes": shared_volumes,
        }
