"""What long work needs beside its mathematics: files, workers, restarts, random streams."""
