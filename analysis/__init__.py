"""From result files to tables and figures. Reads files only: none of the code that ran the models is imported here."""
