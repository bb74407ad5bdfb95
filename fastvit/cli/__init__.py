"""The command `fastvit`: `main` finds the subcommand, and each has a file of its own."""
