"""What runs leave behind and how it is read: files of a run folder, results, tables. Imports no torch."""
