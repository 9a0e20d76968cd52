"""What is added to a frozen layer: one file a form, and the places in a model where it goes."""
