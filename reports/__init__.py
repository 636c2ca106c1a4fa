"""Results files in, tables and pages out. Reads files only: no torch, no kernel, no GPU."""
