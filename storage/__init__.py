"""What outlives a process: records, their bytes, the log and the tables."""
