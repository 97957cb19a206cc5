"""The kernel, quarantined: system calls, namespaces, atomic files, locks, processes, extended attributes."""
