"""The words of the command line: each module adds its commands to the table and runs them."""
