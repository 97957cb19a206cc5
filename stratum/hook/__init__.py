"""The OCI hook: mounts the strata that a container's annotations name, and commits them when it has stopped."""

CREATE_RUNTIME = "createRuntime"
POSTSTOP = "poststop"

# Seconds after which the container engine kills the hook, by stage: starting is waited for, a commit may be large.
TIMEOUTS = {CREATE_RUNTIME: 60, POSTSTOP: 900}
