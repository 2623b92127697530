"""The command `audiolib`: one file for each group of subcommands; nothing heavy is imported before one is chosen."""
