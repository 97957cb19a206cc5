"""Programs that other projects wrote, run to compare our results with theirs."""
