"""From words of a command line to a composed configuration and the runs it asks for."""
