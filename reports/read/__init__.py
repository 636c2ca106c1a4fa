"""From results files to typed tables. Nothing is guessed; what cannot be read is named and left out."""
