"""From a grid to submitted runs: grid, planned runs, ledger, attempts, status, snapshot."""
