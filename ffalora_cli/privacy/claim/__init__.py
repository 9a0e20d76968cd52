"""Puts a privacy claim into words and numbers: statement, epsilon spent."""
