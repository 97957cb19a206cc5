"""The verbs in the groups that ``stratum --help`` shows: where each lives, and what it does in a few words.

One verb loads one module, and a list of all verbs loads none. The groups, and the verbs in each, stand in the order in
which people need them.
"""

from __future__ import annotations

GROUPS: dict[str, dict[str, tuple[str, str]]] = {
    "Start": {
        "init": ("stratum.cli.importing:init", "Make a new stratum and mount it."),
        "import": ("stratum.cli.importing:import_", "Make a commit of a directory, an archive or an image."),
        "mount": ("stratum.cli.mounting:mount", "Mount a worktree, tag or commit."),
        "unmount": ("stratum.cli.mounting:unmount", "Unmount a stratum."),
        "shell": ("stratum.cli.shell:shell", "Start a shell in a mounted stratum."),
        "commit": ("stratum.cli.mounting:commit", "Commit what a worktree shows now."),
        "status": ("stratum.cli.mounting:status", "Show mounts, holders, commits and changes."),
    },
    "Strata, tags and worktrees": {
        "list": ("stratum.cli.refs:list_", "List strata, tags and worktrees."),
        "tag": ("stratum.cli.refs:tag", "Set, rename or pin a tag."),
        "worktree": ("stratum.cli.worktree:worktree", "Make, list, remove and switch worktrees."),
        "remove": ("stratum.cli.refs:remove", "Remove a tag, a worktree or a stratum."),
        "patchset": ("stratum.cli.patchset:patchset", "Merge patches into one commit."),
    },
    "Look at commits and files": {
        "log": ("stratum.cli.log:log", "Show a commit and those that it was made from."),
        "show": ("stratum.cli.history:show", "Show a commit, or a path in one."),
        "diff": ("stratum.cli.diffing:diff", "Show what changed."),
        "ls": ("stratum.cli.finding:ls", "List what is in a directory of a commit."),
        "cat": ("stratum.cli.reading:cat", "Print a file of a commit or of an earlier state."),
        "find": ("stratum.cli.finding:find", "Find paths in a commit, or in its history."),
    },
    "Go back": {
        "restore": ("stratum.cli.restoring:restore", "Bring files of a commit or an earlier state back."),
        "reset": ("stratum.cli.switching:reset", "Let a worktree show another commit."),
        "rebase": ("stratum.cli.switching:rebase", "Carry a worktree's changes onto another commit."),
        "history": ("stratum.cli.versions:history", "List what was done in a worktree."),
        "watch": ("stratum.cli.watching:watch", "Keep the histories of worktrees."),
    },
    "Move between machines": {
        "push": ("stratum.cli.transfer:push", "Send a commit to a registry."),
        "pull": ("stratum.cli.transfer:pull", "Fetch a commit from a registry."),
        "login": ("stratum.cli.registries:login", "Log in to a registry."),
        "logout": ("stratum.cli.registries:logout", "Forget a registry's credentials."),
        "serve": ("stratum.cli.serve:serve", "Serve the store as a registry."),
        "sync": ("stratum.cli.syncing:sync", "Make the histories here and at peers one."),
        "merge": ("stratum.cli.syncing:merge", "List and settle what is in conflict after a sync."),
        "peer": ("stratum.cli.peers:peer", "Know other hosts by their keys."),
        "share": ("stratum.cli.peers:share", "Share strata with peers."),
        "export": ("stratum.cli.exporting:export", "Write a commit to an archive."),
        "c4": ("stratum.cli.c4:c4", "C4 IDs, and commits as C4M files."),
    },
    "Containers": {
        "run": ("stratum.cli.running:run", "Run a container on strata."),
        "ps": ("stratum.cli.running:ps", "List the strata that containers hold."),
        "hook": ("stratum.cli.hook:hook", "Install, remove or examine the OCI hook."),
        "volume-plugin": ("stratum.cli.plugin:volume_plugin", "Serve strata as named volumes to Podman."),
        "reconcile": ("stratum.cli.reconciling:reconcile", "Commit what stopped containers left, and mend mounts."),
    },
    "Disk and health": {
        "du": ("stratum.cli.usage:du", "Show what uses the disk, and what is shared."),
        "gc": ("stratum.cli.maintenance:gc", "Remove what nothing names any more."),
        "fsck": ("stratum.cli.maintenance:fsck", "Check the whole store, and repair it."),
        "verify": ("stratum.cli.history:verify", "Check one commit, or one file of it."),
        "metrics": ("stratum.cli.metrics:metrics", "Print figures for Prometheus."),
        "cache": ("stratum.cli.cache:cache", "Show, limit and empty the cache."),
        "realize": ("stratum.cli.realizing:realize", "Fetch content now, and keep it here."),
        "unrealize": ("stratum.cli.realizing:unrealize", "Drop content that can be fetched again."),
    },
    "Other": {
        "info": ("stratum.cli.info:info", "Show the version, the store and what the kernel can do."),
        "unshare": ("stratum.cli.shell:unshare", "Run a command where a user's mounts are."),
        "version": ("stratum.cli.info:version", "Print the version."),
        "help": ("stratum.cli.helping:help_", "Show the help of a verb."),
        "completion": ("stratum.cli.helping:completion", "Print a shell's completion script."),
    },
    "": {
        "hydrate": ("stratum.cli.hydrating:hydrate", "Serve the mounts of commits that are not here whole."),
    },
}
"""Title -> verb -> where its command lives, and its summary. What has no title is for programs, and is not listed."""

ALIASES = {"rm": "remove", "umount": "unmount"}
"""Other names of verbs, which are not listed."""

TOPICS = {
    "refs": "How commits, tags and worktrees are named.",
    "config": "The settings.",
    "environment": "Variables of the environment.",
    "files": "Where what is kept.",
    "exit-codes": "How a command can end.",
}
"""What 'stratum help' tells besides verbs, and a summary (``cli/topics.py``)."""

VERBS = {name: entry for group in GROUPS.values() for name, entry in group.items()}
"""Verb -> where its command lives, and its summary."""

LISTED = [name for title, group in GROUPS.items() if title for name in group]
"""The verbs for people, in their order."""
