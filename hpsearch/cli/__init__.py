"""The command line: one module for each group of verbs. Together with console.py they alone write to the terminal."""
