"""Words and options of other tools (git, podman, docker, restic, borg, zfs), and what stands for them here. Pure.

A way is a command line without ``stratum``, and what it does. What is in braces there gives way to the words that were
given, where the parser takes them.
"""

from __future__ import annotations

Way = tuple[str, str]

_RESET = ("reset NAME+WORKTREE {REF}", "lets a worktree show another commit")
_COMMIT = ("commit {NAME}", "commits all that a worktree shows")
_PULL = ("pull {HOST/REPOSITORY}", "fetches a commit from a registry")
_PUSH = ("push {NAME HOST/REPOSITORY}", "sends a commit to a registry")
_BLAME = (
    "log NAME PATH",
    "lists the commits that changed a file; 'stratum history NAME+WORKTREE PATH' also who did, where that is kept",
)
_LIST = ("list", "lists strata, tags and worktrees")
_SHOW = ("show {REF}", "shows a commit and what names it")
_REMOVE = ("remove {REF}", "removes a tag, a worktree or a stratum")
_GC = ("gc -n", "tells what nothing names any more; without -n that goes")
_PS = ("ps", "lists the containers with strata; 'podman' stops and starts them")
_RUN = ("run --rm -it -v NAME+WORKTREE:/data IMAGE sh", "gives a shell with a worktree at /data")
_FSCK = ("fsck", "checks the whole store")
_EXPORT = ("export {REF FILE}", "writes a commit to an archive")
_IMPORT = ("import {PATH NAME}", "makes a commit of a directory or an archive")
_INIT = ("init {NAME MOUNTPOINT}", "makes a stratum and mounts it")
_CAT = ("cat {REF PATH}", "prints a file of a commit")
_FILES = ("ls -R {REF}", "lists the files of a commit")
_OUT = ("restore REF PATH --to DIR", "copies files out of a commit")
_LOG = ("log {NAME}", "lists commits, the newest first")
_REFLOG = ("log --reflog {NAME}", "lists every move of tags and worktrees")
_TAG = ("tag --move NAME:TAG NEW", "renames a tag")
_STATUS = ("status", "shows what is mounted, held and not committed")
_SETTINGS = ("help config", "lists the settings")
_REMOTE = ("list --remote {HOST/REPOSITORY}", "lists what a repository in a registry has")
_USE = ("du {}", "shows what takes the room on the disk")

WORDS: dict[str, Way] = {
    "add": ("commit {NAME}", "commits all that a worktree shows; nothing is staged"),
    "annotate": _BLAME,
    "apply": ("import --patch {REF PATH}", "lays changes over a commit"),
    "archive": _EXPORT,
    "attach": _RUN,
    "backup": ("commit NAME", "commits a worktree; 'stratum push NAME HOST/REPOSITORY' sends it away"),
    "blame": _BLAME,
    "branch": ("worktree add NAME+WORKTREE", "makes a worktree; 'stratum worktree list' lists them"),
    "build": ("patchset build {FILE NAME}", "merges patches into one commit"),
    "check": _FSCK,
    "checkout": _RESET,
    "cherry-pick": ("restore REF PATH --to NAME+WORKTREE", "brings files of another commit into a worktree"),
    "clone": _PULL,
    "config": _SETTINGS,
    "container": _PS,
    "copy": _OUT,
    "cp": _OUT,
    "create": _INIT,
    "del": _REMOVE,
    "delete": _REMOVE,
    "deploy": ("mount {REF}", "mounts a worktree, tag or commit"),
    "describe": _SHOW,
    "destroy": _REMOVE,
    "df": _USE,
    "doctor": ("hook doctor", "checks what volumes in containers need"),
    "dump": _CAT,
    "enter": _RUN,
    "events": _REFLOG,
    "exec": _RUN,
    "extract": _OUT,
    "fetch": _PULL,
    "forget": _GC,
    "get": _SETTINGS,
    "grep": ("cat REF PATH", "prints a file of a commit, for 'grep' to read"),
    "image": _LIST,
    "image rm": _REMOVE,
    "images": _LIST,
    "inspect": _SHOW,
    "kill": _PS,
    "load": _IMPORT,
    "locate": ("find {REF GLOB}", "finds paths in a commit"),
    "logs": _REFLOG,
    "ls-files": _FILES,
    "ls-remote": _REMOTE,
    "ls-tree": _FILES,
    "man": ("help", "lists the verbs; 'man stratum-VERB' is the page of one"),
    "mv": _TAG,
    "policy": ("gc --help", "tells how commits are kept and thinned out"),
    "prune": _GC,
    "receive": _PULL,
    "reflog": _REFLOG,
    "remote": ("list --remote HOST/REPOSITORY", "lists what a registry has; 'stratum login HOST' logs in to one"),
    "rename": _TAG,
    "repo": _STATUS,
    "repository": _STATUS,
    "rev-parse": _SHOW,
    "revert": _RESET,
    "rmi": _REMOVE,
    "rollback": _RESET,
    "save": _EXPORT,
    "scrub": _FSCK,
    "search": ("list --remote HOST/REPOSITORY", "lists what a repository in a registry has"),
    "send": _PUSH,
    "set": _SETTINGS,
    "settings": _SETTINGS,
    "snapshot": _COMMIT,
    "snapshots": _LOG,
    "stage": ("commit {NAME}", "commits all that a worktree shows; nothing is staged"),
    "start": _PS,
    "stash": ("reset NAME+WORKTREE", "goes back to the last commit, and keeps what was not committed as one"),
    "stats": _USE,
    "stop": _PS,
    "subvolume": ("worktree list", "lists the worktrees"),
    "switch": ("worktree switch {NAME+WORKTREE MOUNTPOINT}", "lets a live mount show another worktree"),
    "system df": _USE,
    "system info": ("info", "shows the version, the store and what the kernel can do"),
    "system prune": _GC,
    "system": _STATUS,
    "tags": _LIST,
    "tree": _FILES,
    "whatchanged": _LOG,
    "undo": (
        "restore NAME+WORKTREE PATH CHANGE",
        "brings a file back; 'stratum history NAME+WORKTREE PATH' has the CHANGEs",
    ),
    "unlock": ("reconcile", "mends what was killed; locks end with who held them"),
    "update": ("rebase NAME+WORKTREE {REF}", "carries a worktree's changes onto a newer commit"),
    "upgrade": ("rebase NAME+WORKTREE {REF}", "carries a worktree's changes onto a newer commit"),
    "usage": ("help", "lists the verbs"),
    "volume": _LIST,
    "volume create": _INIT,
    "volume inspect": _SHOW,
    "volume prune": _GC,
    "volume rm": _REMOVE,
    "volumes": _LIST,
}
"""Verbs of other tools, also of two words -> what stands for them."""

BELOW: dict[str, tuple[str, ...]] = {
    "add": ("create", "new", "make", "init", "on", "install", "build"),
    "list": ("ls", "show", "status", "ps"),
    "remove": ("rm", "delete", "del", "destroy", "prune", "uninstall", "off"),
    "switch": ("checkout", "use", "set", "move", "mv"),
    "status": ("ls", "list", "show", "info", "df", "du"),
    "evict": ("clear", "clean", "empty", "prune", "drop", "rm", "remove", "gc"),
    "limit": ("set", "config", "size", "max"),
    "build": ("apply", "create", "make", "merge", "run", "add"),
    "show": ("list", "ls", "status", "check", "diff"),
    "install": ("add", "enable", "setup", "on", "create"),
    "uninstall": ("remove", "rm", "delete", "disable", "off"),
    "doctor": ("status", "check", "test", "verify", "show", "list"),
}
"""A verb of a verb -> words for it."""

OPTIONS: dict[str, dict[str, Way]] = {
    "list": {
        "-a --all": ("list", "lists all strata"),
        "-l --long --size -s": _USE,
        "-t --tags -w --worktrees -r": ("list {NAME}", "lists tags and worktrees of a stratum"),
    },
    "log": {
        "-p --patch": ("diff -p {REF}", "shows the lines that a commit changed"),
        "--stat --name-only --name-status": ("diff --stat {REF}", "counts what a commit changed"),
        "--follow": ("log {NAME PATH}", "lists the commits that changed a path; one that was renamed came and went"),
        "--graph --all --decorate": ("log {NAME}", "lists commits with the refs that are at them"),
        "-g --walk-reflogs": _REFLOG,
    },
    "remove": {
        "-r -R --recursive -rf -fr": ("remove --yes {NAME}", "removes a stratum with all that it has, unasked"),
        "-a --all": ("remove --yes NAME", "removes a stratum with all that it has, unasked"),
    },
    "diff": {
        "--cached --staged": ("diff {NAME+WORKTREE}", "shows what is not committed; nothing is staged"),
        "-u --unified": ("diff --patch {REF}", "shows lines"),
        "--color --no-pager -w": ("diff {REF}", "shows what changed"),
    },
    "commit": {
        "-a --all -am": ("commit NAME -m MESSAGE", "commits all that changed; nothing is staged"),
        "--amend": ("commit {NAME}", "makes another commit; those that are made do not change"),
        "-t --tag": ("commit NAME TAG", "commits and sets a tag"),
        "-n --dry-run": ("diff {NAME}", "shows what would be committed"),
    },
    "mount": {
        "-o -r --ro --readonly": ("mount --read-only REF MOUNTPOINT", "mounts a worktree that nobody can write to"),
        "-t --type": ("mount REF MOUNTPOINT", "mounts; 'mount -t stratum' is for fstab"),
        "--rw -w": ("mount NAME+WORKTREE MOUNTPOINT", "mounts a worktree, which can be written to"),
    },
    "unmount": {
        "-l --lazy -f --force": ("status", "shows what is mounted; who has files open there has to close them"),
        "-a --all": ("status", "shows what is mounted; unmount one by one"),
        "-R --recursive": ("unmount {MOUNTPOINT}", "unmounts one place"),
    },
    "push": {
        "-f --force": ("push {NAME HOST/REPOSITORY}", "moves the tag there anyway"),
        "-t --tag --tags": ("push NAME:TAG HOST/REPOSITORY:TAG", "sends a tag as a tag"),
        "-a --all --mirror": ("push NAME:TAG HOST/REPOSITORY", "sends one commit, with what it needs"),
        "-u --set-upstream": ("push NAME HOST/REPOSITORY", "sends a commit; nothing is remembered"),
        "--tls-verify": ("push --plain-http {NAME HOST/REPOSITORY}", "goes without TLS"),
    },
    "pull": {
        "-r --rebase": ("rebase NAME+WORKTREE REF", "carries a worktree onto what was pulled, afterwards"),
        "-t --tag": ("pull HOST/REPOSITORY:TAG", "fetches a tag"),
        "-a --all-tags --all": ("pull HOST/REPOSITORY:TAG", "fetches one tag"),
        "--tls-verify": ("pull --plain-http {HOST/REPOSITORY}", "goes without TLS"),
    },
    "tag": {
        "-d --delete --remove": ("remove {NAME:TAG}", "removes a tag"),
        "-l --list": ("list {NAME}", "lists tags and worktrees"),
        "-a --annotate -m --message": ("commit NAME TAG -m MESSAGE", "commits with a message, and sets a tag"),
    },
    "gc": {"--prune --aggressive --auto -f --force --all": ("gc", "removes what nothing names any more")},
    "import": {"-n --name": ("import PATH NAME", "makes a commit of PATH in the stratum NAME")},
    "init": {"--bare": ("import PATH NAME", "makes a stratum of a directory, and mounts nothing")},
    "fsck": {
        "--fix -y -p --auto": ("fsck --repair", "repairs what can be"),
        "--full --all -f": ("fsck", "checks everything"),
    },
    "ls": {
        "-a --all -d -h -lh -la": ("ls -l {REF}", "lists everything in a directory, with owners and sizes"),
        "-r --recurse": ("ls -R {REF}", "lists all that is below"),
    },
    "find": {
        "-n -name --name -iname": ("find REF GLOB", "finds names that fit"),
        "-path --path": ("find REF '/DIR/**/GLOB'", "finds paths that fit"),
        "-t -type": ("find REF GLOB --type f", "finds files only"),
    },
    "verify": {"-a --all": ("fsck", "checks all commits")},
    "status": {"--porcelain -z": ("status --format json", "is for programs")},
    "restore": {
        "-s --source": ("restore REF PATH --to DIR", "brings a file of a commit"),
        "-t --target -o --output": ("restore REF PATH --to DIR", "says where to"),
        "--staged --worktree": ("restore REF PATH --to NAME+WORKTREE", "brings a file back; nothing is staged"),
    },
    "worktree add": {"-b -B --branch": ("worktree add NAME+WORKTREE BASE", "makes a worktree of that name")},
    "worktree remove": {"-f --force": ("worktree remove --discard NAME+WORKTREE", "throws changes away, too")},
    "": {
        "-v --verbose --debug -d": ("help", "lists the verbs; nothing tells more"),
        "-C --root --repo --repository -r": ("--store DIR list", "works in another store"),
        "-j --json": ("--format json list", "prints JSON"),
    },
    "*": {
        "-j --json": ("{VERB} --format json", "prints JSON"),
        "-v --verbose --debug": ("help {VERB}", "tells all options"),
        "-C --repo": ("--store DIR {VERB}", "works in another store"),
    },
}
"""Verb -> options, space-separated -> what stands for them. Before a verb is "", after any of them "*"."""
