"""Hand-written GPU kernels, one file per operator. Imports torch and triton only."""
