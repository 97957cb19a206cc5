"""Where what is installed goes. Pure.

The program is a tree of its own, ``PREFIX/lib/stratum``, with an interpreter that is a link to the system's and with
all packages that it needs. Outside of it are links to its programs, units, man pages, completion and examples.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tools.share import COMPLETION, EXAMPLES, UNITS, USER_UNITS

PROGRAM_IN_UNITS = "/opt/stratum/bin/stratum"
"""What units in the checkout start: put in its place is the program where it is."""
PACKAGE = "stratum-oci"


@dataclass(frozen=True)
class Places:
    """``prefix`` is absolute. ``system``: the machine's units and the helper of mount(8) too, for which one is root."""

    prefix: str
    system: bool = True

    @property
    def tree(self) -> str:
        """The program's own tree."""
        return f"{self.prefix}/lib/stratum"

    @property
    def bin(self) -> str:
        """The directory on the PATH."""
        return f"{self.prefix}/bin"

    @property
    def units(self) -> str:
        """A directory that systemd reads."""
        below_prefix = self.prefix in ("/usr", "/usr/local")
        return f"{self.prefix}/lib/systemd/system" if below_prefix else "/etc/systemd/system"

    @property
    def user_units(self) -> str:
        """A directory that systemd reads for users: for all of them, or for whom it is installed."""
        if not self.system:  # where that is ~/.local, systemd looks there
            return f"{self.prefix}/share/systemd/user"
        return f"{self.prefix}/lib/systemd/user" if self.prefix in ("/usr", "/usr/local") else "/etc/systemd/user"

    def files(self, share: Iterable[str]) -> dict[str, str]:
        """Where each of ``share``, files below ``share/`` of the wheel, goes: target -> file."""
        zsh = "vendor-completions" if self.prefix == "/usr" else "site-functions"
        targets = {}
        for name in share:
            if name.startswith(f"{UNITS}/"):
                if self.system:
                    targets[f"{self.units}/{name.removeprefix(f'{UNITS}/')}"] = name
            elif name.startswith(f"{USER_UNITS}/"):
                targets[f"{self.user_units}/{name.removeprefix(f'{USER_UNITS}/')}"] = name
            elif name.startswith(f"{EXAMPLES}/"):
                targets[f"{self.prefix}/share/doc/{PACKAGE}/examples/{name.removeprefix(f'{EXAMPLES}/')}"] = name
            elif name == COMPLETION["fish"] and self.system and self.prefix != "/usr":
                targets["/etc/fish/completions/stratum.fish"] = name  # Debian's fish does not look into /usr/local
            elif name == COMPLETION["zsh"]:
                targets[f"{self.prefix}/share/zsh/{zsh}/_stratum"] = name
            else:
                targets[f"{self.prefix}/share/{name}"] = name
        return targets

    def links(self, programs: Iterable[str]) -> dict[str, str]:
        """Links to the tree's programs: target -> what it names."""
        found = {}
        for name in programs:
            if not name.startswith("mount."):
                found[f"{self.bin}/{name}"] = f"../lib/stratum/bin/{name}"
            elif self.system:  # mount(8) looks into /sbin, and nowhere else
                found[f"/usr/sbin/{name}"] = f"{self.tree}/bin/{name}"
        return found

    def placed(self, name: str, content: bytes) -> bytes:
        """``content`` of the file ``name`` below ``share/``, as it is installed: a unit starts what is here."""
        if not name.startswith((f"{UNITS}/", f"{USER_UNITS}/")):
            return content
        return content.replace(PROGRAM_IN_UNITS.encode(), f"{self.bin}/stratum".encode())
