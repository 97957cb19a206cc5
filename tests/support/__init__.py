"""What tests share: capabilities of the machine, the command line as users run it, the check for leftovers."""
