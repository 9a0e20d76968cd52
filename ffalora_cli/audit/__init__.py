"""The mechanism as implemented, watched from outside: a battery of tests and lower bounds."""
