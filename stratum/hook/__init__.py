"""The OCI hook: mounts the strata that a container's annotations name, and commits them when it has stopped."""
