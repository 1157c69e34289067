"""Plans of stages, the store of their results, the executor, the ledger of what they cost."""
