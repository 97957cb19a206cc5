"""Rules of residence: what of a stratum is to be here, and what need not: ``refs/<name>/residence.toml``.

::

    [residence]  path (from the root of the tree, escaped as in a dump) = "auto" | "real" | "unreal"
    [check]      tells changed bytes (``store.tables``)

A rule is for a path and all below it, up to those with a rule of their own; where none is, it is ``auto``. The rules
are the stratum's, not a commit's: they hold for whatever it names next, and for files that come to be in a directory.
There is no file where there are no rules. Writers hold the stratum's lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import IntEnum

from stratum.errors import DamagedError, UsageError, path_text
from stratum.store.layout import Layout
from stratum.store.locks import StoreLocks
from stratum.store.namespaces import Namespaces
from stratum.store.tables import Tables, read_tables, write_tables
from stratum.store.transaction import Transactions
from stratum.tree.escape import escape, unescape
from stratum.tree.limits import NAME_MAX, PATH_MAX

RESIDENCE = "residence.toml"
RULES_MAX = 10_000
ROOT = b"/"


class Rule(IntEnum):
    """What becomes of content whose sources have it. What several rules are for is treated as the greatest says."""

    UNREAL = 0
    """It goes first where room is needed."""
    AUTO = 1
    """It stays while there is room."""
    REAL = 2
    """It is fetched, and stays."""

    @property
    def word(self) -> str:
        """As it is written."""
        return self.name.lower()


class Rules:
    """The rules of one stratum: path (absolute, as bytes) -> rule."""

    def __init__(self, rules: Mapping[bytes, Rule] | None = None) -> None:
        self.rules: dict[bytes, Rule] = dict(sorted((rules or {}).items()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rules) and other.rules == self.rules

    def __hash__(self) -> int:
        return hash(tuple(self.rules.items()))

    def __bool__(self) -> bool:
        return bool(self.rules)

    def has(self, rule: Rule) -> bool:
        """Whether anything is to be treated so."""
        return rule in self.rules.values()

    def of(self, path: bytes) -> Rule:
        """The rule for ``path``: that of the deepest path at or above it that has one."""
        while path != ROOT:
            if path in self.rules:
                return self.rules[path]
            path = parent_of(path)
        return self.rules.get(ROOT, Rule.AUTO)

    def above(self, path: bytes) -> Rule:
        """The rule that ``path`` has from what is above it."""
        return Rule.AUTO if path == ROOT else self.of(parent_of(path))

    def below(self, path: bytes) -> dict[bytes, Rule]:
        """The rules of what is below ``path``."""
        prefix = path if path == ROOT else path + b"/"
        return {other: rule for other, rule in self.rules.items() if other != path and other.startswith(prefix)}

    def changed(self, path: bytes, rule: Rule) -> Rules:
        """These rules with ``rule`` for ``path``; those below it stay. ``UsageError`` where they become too many."""
        rules = {other: found for other, found in self.rules.items() if other != path}
        if Rules(rules).above(path) is not rule:
            rules[path] = rule
        if len(rules) > RULES_MAX:
            raise UsageError(
                f"a stratum can have {RULES_MAX} rules of residence at most",
                hint="give one to a directory further up; 'stratum unrealize --auto' removes one",
            )
        return Rules(rules)

    def of_lines(self) -> Callable[[bytes], Rule]:
        """What tells the rule of one escaped path of a dump after the other, at less cost than ``of``."""
        if not self.rules.keys() - {ROOT}:
            everywhere = self.of(ROOT)
            return lambda path: everywhere
        named = {escape(path): rule for path, rule in self.rules.items()}
        directories = {b"": self.of(ROOT)}

        def of(path: bytes) -> Rule:
            rule = named.get(path)
            return rule if rule is not None else of_directory(path.rpartition(b"/")[0])

        def of_directory(path: bytes) -> Rule:
            rule = directories.get(path)
            if rule is None:
                rule = directories[path] = of(path)
            return rule

        return of


def parent_of(path: bytes) -> bytes:
    """The path of the directory that ``path``, not the root, is in."""
    return path.rpartition(b"/")[0] or ROOT


def check_path(path: bytes) -> bytes:
    """``path``, without slashes at its end, if it can be one in a tree: absolute, without '.' and '..'.

    ``UsageError``.
    """
    shortest = path.rstrip(b"/") or ROOT
    names = shortest.split(b"/")[1:] if shortest != ROOT else []
    if not path.startswith(b"/") or any(name in (b"", b".", b"..") for name in names) or b"\0" in path:
        raise UsageError(
            f"{path_text(path)!a} is not a path in a stratum", hint="a path begins with '/' and has no '.' or '..'"
        )
    if len(shortest) > PATH_MAX or any(len(name) > NAME_MAX for name in names):
        raise UsageError(f"{path_text(path)!a} is longer than a path in a stratum can be")
    return shortest


def parse_rules(data: bytes, where: str) -> Rules:
    """The rules in the file ``where``. ``DamagedError``."""
    table = Tables(read_tables(data, where), where).table("residence")
    if len(table) > RULES_MAX:
        raise _damaged(where, "has too many rules")
    return Rules(dict(_parsed(path, word, where) for path, word in table.items()))


def format_rules(rules: Rules, name: str) -> bytes:
    """The file with the rules of the stratum ``name``."""
    table = {escape(path).decode("ascii"): rule.word for path, rule in rules.rules.items()}
    return write_tables({"residence": table}, f"the rules of residence of {name}")


def _parsed(text: str, word: object, where: str) -> tuple[bytes, Rule]:
    try:
        escaped = text.encode("ascii")
        path = check_path(unescape(escaped))
    except (DamagedError, UsageError, ValueError):
        raise _damaged(where, f"has {text!a:.200} for a path") from None
    if escape(path) != escaped:
        raise _damaged(where, f"has {text!a:.200} for a path")
    rule = _WORDS.get(word) if isinstance(word, str) else None
    if rule is None:
        raise _damaged(where, f"has {word!a:.200} for a rule")
    return path, rule


_WORDS = {rule.word: rule for rule in Rule}


def _damaged(where: str, problem: str) -> DamagedError:
    return DamagedError(f"{where} {problem}", hint="run 'stratum fsck'")


def read_rules(layout: Layout, name: str) -> Rules:
    """The rules of stratum ``name``, which need not be there. ``DamagedError``."""
    path = layout.ref(name) / RESIDENCE
    data = layout.content_of(path)
    if data is None:
        return Rules()
    return parse_rules(data, str(path))


class Keeping:
    """The rules of residence of one store."""

    def __init__(self, layout: Layout, locks: StoreLocks, transactions: Transactions, namespaces: Namespaces) -> None:
        self._layout = layout
        self._locks = locks
        self._transactions = transactions
        self._namespaces = namespaces

    def of(self, name: str) -> Rules:
        """The rules of stratum ``name``. ``NotFoundError``, ``DamagedError``."""
        self._namespaces.check(name)
        return read_rules(self._layout, name)

    def set(self, name: str, path: bytes, rule: Rule) -> bool:
        """Make ``rule`` that of ``path`` in stratum ``name``, durably; whether that changed anything.

        ``NotFoundError`` where there is no such stratum, ``UsageError`` for what is no path, ``DamagedError``.
        """
        path = check_path(path)
        self._namespaces.check(name)
        with self._transactions.begin(f"setting a rule of {name}") as tx, self._locks.ref(name):
            self._namespaces.check(name)
            old = read_rules(self._layout, name)
            new = old.changed(path, rule)
            if new == old:
                return False
            file = self._layout.ref(name) / RESIDENCE
            if new:
                tx.place_file(format_rules(new, name), file)
            else:
                self._transactions.discard(file)
            return True

    def with_rules(self, names: Iterable[str]) -> dict[str, Rules]:
        """The rules of those of the strata that have some. ``DamagedError``."""
        found = {name: read_rules(self._layout, name) for name in names}
        return {name: rules for name, rules in found.items() if rules}
