"""Lower bounds on epsilon from planted rows."""
