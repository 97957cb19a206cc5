"""Podman, by its own command: its settings, its containers, and the files by which it starts our OCI hook."""

CREATE_RUNTIME = "createRuntime"
POSTSTOP = "poststop"

# Seconds after which the container engine kills the hook, by stage: starting is waited for, a commit may be large.
TIMEOUTS = {CREATE_RUNTIME: 60, POSTSTOP: 900}
