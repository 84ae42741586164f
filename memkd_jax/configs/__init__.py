"""What --config=NAME finds: a file for each benchmark, and ablations."""
