"""Who takes part, and what stays with the clients."""
