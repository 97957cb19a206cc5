"""The command line: one module per group of verbs. Only this package (and other entry points) prints or exits."""
