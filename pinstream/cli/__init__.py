"""The `pinstream` command. Each module is one sub-command; rooms are imported only when their command runs."""
