"""Trained adapters for others: PEFT, merged model, card, hub."""
