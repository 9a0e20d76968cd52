"""Privacy: accountants, calibration, the plan, the mechanisms, the ledger and the statement."""
