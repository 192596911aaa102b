"""The command line: one file per command group. Nothing else imports from here."""
