"""What others than the shell ask for: the grammar of requests and the policy."""
