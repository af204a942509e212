"""The server process: its memory and its end. Only the application (`app/main.py`) uses this package."""
