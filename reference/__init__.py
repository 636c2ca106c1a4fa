"""The same operators as the textbook writes them, for any device and any floating dtype. Imports torch only."""
