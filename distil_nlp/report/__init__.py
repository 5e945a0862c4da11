"""The report of a run, rendered from its ledger (``report.json``) alone."""
