"""Plans of stages, the store of their results, the executor, and the ledger of costs."""
