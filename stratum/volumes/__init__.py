"""What others than the shell ask for: the grammar of requests, the policy, and who gets and gives back a worktree."""
