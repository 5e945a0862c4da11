"""Figures of a run: quality, efficiency and the ledger that holds them."""
