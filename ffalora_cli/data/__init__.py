"""Tasks as tokenised rows, and which client has which of them."""
