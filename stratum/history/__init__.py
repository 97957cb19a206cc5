"""What happens in worktrees, recorded while it happens: the watcher, the kernel's events, batches and versions."""
