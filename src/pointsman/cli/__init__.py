"""The command line: ``main`` has the app and the short commands, the other modules one command or group each."""
