"""Mounts of commits and worktrees: what to mount, how the kernel is told, and the record of what is mounted."""
