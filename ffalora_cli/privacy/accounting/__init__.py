"""From noise, rate and steps to epsilon, and back."""
