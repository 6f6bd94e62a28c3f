"""Helpers that several test files share; no test lies here."""
